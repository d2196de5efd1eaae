//! Why a run may end before its last step: a signal, or `max_seconds`.

use couplet_train::{
    config::Resume,
    error::Result,
    fs::fault,
    report::{Console, Lang, Look},
    signal::{Signal, Stop},
};
use std::{
    io::stderr,
    time::{Duration, Instant},
};

/// Exit code of a run that `max_seconds` stopped: temporary failure, try again (`sysexits.h`).
const TIME_LIMIT: u8 = 75;

/// What a command says that a signal ends before it has written anything.
pub const NOTHING_WRITTEN: (&str, &str) = ("nothing was written", "未写入任何内容");

/// Listens to signals from now on: one ends the process, with a word about what is left.
pub fn listen(look: Look) -> Result<Stop> {
    Stop::install_with(move |signal| tell(look, signal, NOTHING_WRITTEN))
}

/// Says that a signal ended the command, and what is left.
pub fn tell(look: Look, signal: Signal, (en, zh): (&str, &str)) {
    let name = signal.name();
    Console::new(stderr(), look).line(&match look.lang {
        Lang::En => format!("stopped by {name}: {en}"),
        Lang::Zh => format!("被 {name} 停止：{zh}"),
    });
}

/// Listens to signals and looks at the clock.
pub struct StopAt {
    signals: Stop,
    deadline: Option<Instant>,
}

impl StopAt {
    /// A signal ends the process from now on, until [`Self::defer`]. `limit`: when the process started, and `max_seconds`.
    pub fn new(limit: Option<(Instant, f64)>) -> Result<Self> {
        // A limit beyond every clock is none.
        let deadline = limit.and_then(|(started, seconds)| {
            Duration::try_from_secs_f64(seconds).ok().and_then(|limit| started.checked_add(limit))
        });
        Ok(Self { signals: Stop::install()?, deadline })
    }

    /// From now on there is something to lose: the first signal only asks.
    pub fn defer(&self) {
        self.signals.defer();
    }

    /// The run is complete: from now on a signal ends the process again.
    pub fn leave_at_once(&self) {
        self.signals.leave_at_once();
    }

    /// Asked between two micro-batches.
    pub fn is_requested(&self) -> bool {
        !fault::mutant("signal_ignored") && (self.signals.requested().is_some() || self.is_over())
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Says why the run stopped after `step`, and how it goes on if that step is `saved`, given how this one began; returns
    /// the exit code.
    pub fn tell(&self, step: usize, saved: bool, began: &Resume, console: &mut Console) -> u8 {
        let signal = self.signals.requested();
        let why = signal.map_or("max_seconds", |signal| signal.name());
        console.line(&match console.look().lang {
            Lang::En if step == 0 => format!("stopped by {why} before the first step"),
            Lang::Zh if step == 0 => format!("在第 1 步之前被 {why} 停止"),
            Lang::En if !saved => {
                format!("stopped by {why} after step {step}, which is not saved (with save_only_model only its adapter is)")
            }
            Lang::Zh if !saved => {
                format!("在第 {step} 步后被 {why} 停止，此步未保存（设 save_only_model 时只保存了适配器），无法从此继续")
            }
            Lang::En if *began == Resume::Never => format!(
                "stopped by {why} after step {step}, which is saved; without `resume_from_checkpoint=false` the command \
                 goes on from there"
            ),
            Lang::Zh if *began == Resume::Never => format!(
                "在第 {step} 步后被 {why} 停止，已保存；去掉 `resume_from_checkpoint=false` 再次运行即可继续"
            ),
            Lang::En => {
                format!("stopped by {why} after step {step}, which is saved; the same command goes on from there")
            }
            Lang::Zh => format!("在第 {step} 步后被 {why} 停止，已保存；再次运行同一命令即可继续"),
        });
        signal.map_or(TIME_LIMIT, |signal| signal.exit_code())
    }
}
