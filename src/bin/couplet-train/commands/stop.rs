//! Why a run may end before its last step: a signal, or `max_seconds`.

use couplet_train::{
    error::Result,
    report::{Console, Lang},
    signal::Stop,
};
use std::time::{Duration, Instant};

/// Exit code of a run that `max_seconds` stopped: temporary failure, try again (`sysexits.h`).
const TIME_LIMIT: u8 = 75;

/// Listens to signals and looks at the clock.
pub struct StopAt {
    signals: Stop,
    deadline: Option<Instant>,
}

impl StopAt {
    /// A signal ends the process from now on, until [`Self::defer`]. `limit`: when the process started, and `max_seconds`.
    pub fn new(limit: Option<(Instant, f64)>) -> Result<Self> {
        let deadline = limit.map(|(started, seconds)| started + Duration::from_secs_f64(seconds));
        Ok(Self { signals: Stop::install()?, deadline })
    }

    /// From now on there is something to lose: the first signal only asks.
    pub fn defer(&self) {
        self.signals.defer();
    }

    /// Asked between two micro-batches.
    pub fn is_requested(&self) -> bool {
        self.signals.requested().is_some() || self.is_over()
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Says why the run stopped after `step`, and how it goes on if that step is `saved`; returns the exit code.
    pub fn tell(&self, step: usize, saved: bool, console: &mut Console) -> u8 {
        let signal = self.signals.requested();
        let why = signal.map_or("max_seconds", |signal| signal.name());
        console.line(&match console.look().lang {
            Lang::En if step == 0 => format!("stopped by {why} before the first step"),
            Lang::Zh if step == 0 => format!("在第 1 步之前被 {why} 停止"),
            Lang::En if !saved => format!("stopped by {why} after step {step}, which is not saved"),
            Lang::Zh if !saved => format!("在第 {step} 步后被 {why} 停止，未能保存"),
            Lang::En => {
                format!("stopped by {why} after step {step}, which is saved; the same command goes on from there")
            }
            Lang::Zh => format!("在第 {step} 步后被 {why} 停止，已保存；再次运行同一命令即可继续"),
        });
        signal.map_or(TIME_LIMIT, |signal| signal.exit_code())
    }
}
