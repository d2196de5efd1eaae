//! A polite stop: SIGINT, SIGTERM and SIGHUP are remembered, and the trainer looks between two micro-batches.
//!
//! While a run is only being prepared a signal ends the process at once: nothing would be lost. From [`Stop::defer`] on the
//! first signal asks and the second ends. Commands that are not seen to do anything for a while say a last word instead
//! ([`Stop::install_with`]). A signal that was ignored when the process started stays ignored, as `nohup` wants it.

use crate::error::{Error, Result};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The terminal is gone.
    Hangup,
    /// Ctrl-C.
    Interrupt,
    /// `kill`, or a queue system.
    Terminate,
}

impl Signal {
    const ALL: [Self; 3] = [Self::Hangup, Self::Interrupt, Self::Terminate];

    /// Its number, the same on every Unix.
    fn number(self) -> u8 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }

    /// What a process that it stopped exits with: 128 + its number.
    pub fn exit_code(self) -> u8 {
        128 + self.number()
    }

    /// As in signal(7).
    pub fn name(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

/// Whether a signal has asked for the end. Copies share the answer.
#[derive(Debug, Clone)]
pub struct Stop {
    /// The number of the last signal, 0 before the first.
    number: Arc<AtomicUsize>,
    /// The next signal ends the process.
    at_once: Arc<AtomicBool>,
    /// Held while a signal is answered: what it ends must not go on meanwhile.
    answering: Arc<Mutex<()>>,
}

impl Stop {
    /// Nothing ever asks: for runs that no signal may reach.
    pub fn never() -> Self {
        Self { number: Arc::default(), at_once: Arc::new(AtomicBool::new(true)), answering: Arc::default() }
    }

    /// Listens from now on, for the rest of the process: a signal ends it with its [`Signal::exit_code`]. Call it once.
    /// Elsewhere than on Unix, [`Self::never`].
    pub fn install() -> Result<Self> {
        let stop = Self::never();
        #[cfg(unix)]
        stop.listen().map_err(|err| Error::run(format!("cannot listen to signals: {err}")))?;
        Ok(stop)
    }

    /// The same, but for a last word where the first signal ends the process. A thread of its own hears of signals, so the word
    /// may print; [`Self::requested`] knows of one a moment later.
    pub fn install_with(last_word: impl Fn(Signal) + Send + 'static) -> Result<Self> {
        let stop = Self::never();
        #[cfg(unix)]
        stop.hear(last_word).map_err(|err| Error::run(format!("cannot listen to signals: {err}")))?;
        #[cfg(not(unix))]
        drop(last_word);
        Ok(stop)
    }

    /// From now on the first signal only asks.
    pub fn defer(&self) {
        let _answered = self.answering();
        self.at_once.store(false, Ordering::SeqCst);
    }

    /// There is nothing left to lose: the next signal ends the process again.
    pub fn leave_at_once(&self) {
        self.at_once.store(true, Ordering::SeqCst);
    }

    /// The signal that asked, if one did. One atomic load: cheap enough for every micro-batch.
    pub fn requested(&self) -> Option<Signal> {
        let number = self.number.load(Ordering::Relaxed);
        Signal::ALL.into_iter().find(|signal| usize::from(signal.number()) == number)
    }

    fn answering(&self) -> MutexGuard<'_, ()> {
        self.answering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(unix)]
    fn hear(&self, last_word: impl Fn(Signal) + Send + 'static) -> std::io::Result<()> {
        let mut signals =
            signal_hook::iterator::Signals::new(heeded_signals().map(|signal| i32::from(signal.number())))?;
        let stop = self.clone();
        let answer = move || {
            for number in signals.forever() {
                let Some(signal) = Signal::ALL.into_iter().find(|signal| i32::from(signal.number()) == number) else {
                    continue;
                };
                let _answering = stop.answering();
                if stop.at_once.swap(true, Ordering::SeqCst) {
                    if stop.requested().is_none() {
                        last_word(signal);
                    }
                    std::process::exit(signal.exit_code().into());
                }
                stop.number.store(signal.number().into(), Ordering::SeqCst);
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(answer).map(drop)
    }

    #[cfg(unix)]
    fn listen(&self) -> std::io::Result<()> {
        use signal_hook::flag;

        for signal in heeded_signals() {
            let number = i32::from(signal.number());
            // Actions run in this order, so the first signal of any kind does not yet see itself as the second.
            flag::register_conditional_shutdown(number, i32::from(signal.exit_code()), Arc::clone(&self.at_once))?;
            flag::register_usize(number, Arc::clone(&self.number), usize::from(signal.number()))?;
            flag::register(number, Arc::clone(&self.at_once))?;
        }
        Ok(())
    }
}

/// Ctrl-C as a question that is asked again and again: it ends what is being done, never the program.
#[derive(Debug, Clone)]
pub struct Interrupts {
    asked: Arc<AtomicBool>,
}

impl Interrupts {
    /// Listens from now on, for the rest of the process. Elsewhere than on Unix Ctrl-C ends the program.
    pub fn install() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        #[cfg(unix)]
        signal_hook::flag::register(i32::from(Signal::Interrupt.number()), Arc::clone(&asked))
            .map_err(|err| Error::run(format!("cannot listen to signals: {err}")))?;
        Ok(Self { asked })
    }

    /// Whether Ctrl-C has come since [`Self::forget`].
    pub fn requested(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// From now on it has not.
    pub fn forget(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }
}

/// Those that this process was not told to ignore.
#[cfg(unix)]
fn heeded_signals() -> impl Iterator<Item = Signal> {
    let ignored = ignored_signals();
    Signal::ALL.into_iter().filter(move |signal| ignored >> (signal.number() - 1) & 1 == 0)
}

/// Signals that this process was started with orders to ignore: bit n − 1 for signal n. Where there is no `/proc`, none.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_mask(&status).unwrap_or(0)
}

#[cfg(unix)]
fn ignored_mask(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::{io::Write, process::Command};

    #[test]
    fn codes_are_those_of_the_shell() {
        let codes = Signal::ALL.map(|signal| (signal.name(), signal.exit_code()));
        assert_eq!(codes, [("SIGHUP", 129), ("SIGINT", 130), ("SIGTERM", 143)]);
    }

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        for (status, want, why) in [
            ("Name:\tx\nSigBlk:\t01\nSigIgn:\t0000000000000001\nSigCgt:\t02\n", Some(1), "nohup"),
            ("SigIgn:\t0000000000001002\n", Some(0x1002), "SIGINT in the background of a script, and SIGPIPE"),
            ("Name:\tx\n", None, "no such line"),
        ] {
            assert_eq!(ignored_mask(status), want, "{why}");
        }
    }

    /// The child of the next test: raises the signals it is told and exits with what it saw; 0 for nothing.
    #[test]
    #[ignore = "a child process"]
    fn child_that_raises_signals() {
        let stop = Stop::install().unwrap();
        assert_eq!(stop.requested(), None);
        let defer = std::env::var("DEFER").unwrap();
        if defer != "no" {
            stop.defer();
        }
        if defer == "done" {
            stop.leave_at_once();
        }
        for number in std::env::var("RAISE").unwrap().split(' ') {
            signal_hook::low_level::raise(number.parse().unwrap()).unwrap();
        }
        std::process::exit(stop.clone().requested().map_or(0, |signal| i32::from(signal.number())));
    }

    #[test]
    fn the_first_signal_asks_and_the_second_ends() {
        // What a process ignores its children ignore too, and the tests may have been started so (`nohup`, `&` in a script).
        // What it handles is at its default again in a child: so the tests handle, by doing nothing, what they would ignore.
        let ignored = ignored_signals();
        for number in Signal::ALL.map(Signal::number).into_iter().filter(|number| ignored >> (number - 1) & 1 == 1) {
            signal_hook::flag::register(i32::from(number), Arc::default()).unwrap();
        }
        let run = |defer: &str, raise: &str, ignored: &str| {
            let script =
                format!("trap '' {ignored}; exec \"$0\" --ignored --exact signal::tests::child_that_raises_signals");
            let script = if ignored.is_empty() { script.replace("trap '' ;", "") } else { script };
            let mut child = Command::new("sh");
            child.args(["-c", &script]).arg(std::env::current_exe().unwrap()).env("RAISE", raise);
            child.env("DEFER", defer);
            child.output().unwrap().status.code()
        };
        for (defer, raise, ignored, want, why) in [
            ("yes", "2", "", 2, "Ctrl-C"),
            ("yes", "15", "", 15, "kill"),
            ("yes", "1", "", 1, "the terminal is gone"),
            ("yes", "2 2", "", 130, "Ctrl-C twice"),
            ("yes", "1 15", "", 143, "two of them: the second decides"),
            ("yes", "1 1", "HUP", 0, "nohup"),
            ("yes", "2 1", "INT", 1, "only what was ignored stays so"),
            ("no", "2", "", 130, "while loading it just leaves"),
            ("no", "1 15", "HUP", 143, "and ignores what it was told to"),
            ("done", "2", "", 130, "the run is complete: it just leaves again"),
        ] {
            assert_eq!(run(defer, raise, ignored), Some(want), "{why}");
        }
    }

    /// The child of the next test: says its last word on stdout, or exits with what it was asked by.
    #[test]
    #[ignore = "a child process"]
    fn child_with_a_last_word() {
        let say = |signal: Signal| writeln!(std::io::stdout(), "last word: {}", signal.name()).unwrap();
        let stop = Stop::install_with(say).unwrap();
        if std::env::var("DEFER").unwrap() == "yes" {
            stop.defer();
        }
        for number in std::env::var("RAISE").unwrap().split(' ') {
            signal_hook::low_level::raise(number.parse().unwrap()).unwrap();
            // The second must find the first answered.
            let began = std::time::Instant::now();
            while stop.requested().is_none() && began.elapsed().as_secs() < 10 {
                std::thread::yield_now();
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        std::process::exit(stop.requested().map_or(0, |signal| i32::from(signal.number())));
    }

    #[test]
    fn who_listens_with_a_last_word_says_it_once_and_leaves() {
        let handled = Signal::ALL.map(Signal::number);
        let ignored = ignored_signals();
        for number in handled.into_iter().filter(|number| ignored >> (number - 1) & 1 == 1) {
            signal_hook::flag::register(i32::from(number), Arc::default()).unwrap();
        }
        for (defer, raise, code, word, why) in [
            ("no", "2", 130, Some("SIGINT"), "Ctrl-C"),
            ("no", "15", 143, Some("SIGTERM"), "kill"),
            ("yes", "2", 2, None, "while it writes it is only asked"),
            ("yes", "2 15", 143, None, "the second ends it, and what is left is not known"),
        ] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--ignored", "--exact", "--nocapture", "signal::tests::child_with_a_last_word"]);
            let ended = child.env("RAISE", raise).env("DEFER", defer).output().unwrap();
            let said = String::from_utf8(ended.stdout).unwrap();
            let words: Vec<&str> = said.split("last word: ").skip(1).filter_map(|rest| rest.lines().next()).collect();
            assert_eq!((ended.status.code(), words), (Some(code), Vec::from_iter(word)), "{why}");
        }
    }

    #[test]
    fn never_is_never() {
        assert_eq!(Stop::never().requested(), None);
    }
}
