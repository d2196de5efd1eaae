//! Those who watch: log files, result files, loss curves, console and model card, all drawn from [`Event`]s.

pub mod console;
pub mod histogram;
pub mod lang;
pub mod log;
pub mod look;
pub mod model_card;
mod pace;
pub mod plot;
pub mod results;
#[cfg(test)]
mod testing;
pub mod text;
pub mod verdict;

pub use console::Console;
pub use lang::{Lang, duration};
pub use log::TrainerLog;
pub use look::{Look, Progress, Verbosity};
pub use model_card::model_card;
pub use plot::LossPlot;
pub use results::Results;
pub use text::{Header, Summary};
pub use verdict::{Score, Scores, Verdict};

use crate::{
    error::Result,
    trainer::event::{Compared, EvalPhase, Evaluated, Event, Finished, Observer, Trouble},
};

/// Several observers as one; each event goes to all of them in order.
///
/// A report that cannot be written is not worth hours of training: while the run goes on, an error becomes an
/// [`Event::Trouble`] for all, once until all is well again. At the end, where the reports are results, it is an error.
#[derive(Default)]
pub struct Observers<'a> {
    all: Vec<Box<dyn Observer + 'a>>,
    in_trouble: bool,
}

impl<'a> Observers<'a> {
    /// Adds one behind the others.
    pub fn push(&mut self, observer: impl Observer + 'a) {
        self.all.push(Box::new(observer));
    }

    fn tell(&mut self, event: &Event) -> Result<()> {
        // Every one is told, whoever failed before it.
        self.all.iter_mut().map(|observer| observer.on_event(event)).fold(Ok(()), Result::and)
    }
}

impl Observer for Observers<'_> {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        let is_result = match event {
            Event::Finished(_) | Event::Compared(_) => true,
            Event::Evaluated(e) => e.when == EvalPhase::Final,
            _ => false,
        };
        match self.tell(event) {
            Err(err) if is_result => return Err(err),
            Err(err) if !self.in_trouble => {
                self.in_trouble = true;
                let _ = self.tell(&Event::Trouble(Trouble { what: err.to_string() })); // who fails again has been named
            }
            Err(_) => {}
            // Only these two are written to files, so only they show that all is well again.
            Ok(()) if matches!(event, Event::Logged(_) | Event::Evaluated(_)) => self.in_trouble = false,
            Ok(()) => {}
        }
        Ok(())
    }
}

/// So that an observer can be lent to [`Observers`] and asked afterwards.
impl<O: Observer + ?Sized> Observer for &mut O {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        (**self).on_event(event)
    }
}

/// What is worth keeping of a run, for the summary and the model card.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// All evaluations in order.
    pub evaluations: Vec<Evaluated>,
    /// The training loss of the first step, which is that of the model as it was; `None` where an earlier process did that step.
    pub first_loss: Option<f64>,
    /// The training losses of the log, in order.
    pub losses: Vec<f64>,
    /// What held-out and test rows have in common with training rows, a line each.
    pub leaks: Vec<String>,
    /// The end, once it is there.
    pub finished: Option<Finished>,
    /// What it took beside what was planned.
    pub compared: Option<Compared>,
}

impl Outcome {
    /// Held-out loss of the base model.
    pub fn loss_before(&self) -> Option<f64> {
        self.evaluations.iter().find(|e| e.when == EvalPhase::Before).map(|e| e.loss)
    }

    /// Held-out loss after training: the final evaluation, or the last one there is.
    pub fn loss_after(&self) -> Option<f64> {
        self.evaluations.iter().rfind(|e| e.when != EvalPhase::Before).map(|e| e.loss)
    }

    /// Where `early_stopping_steps` ended the run: after which step, of how many.
    pub fn stopped_early(&self) -> Option<(usize, usize)> {
        self.finished.as_ref().filter(|end| end.step < end.total_steps).map(|end| (end.step, end.total_steps))
    }

    /// The step whose adapter was written: the last, or under `load_best_model_at_end` the best.
    pub fn adapter_step(&self) -> Option<usize> {
        self.finished.as_ref().map(|end| end.best.map_or(end.step, |(step, _)| step))
    }

    /// Step and metric of the evaluation that the adapter was chosen by.
    pub fn chosen(&self) -> Option<(usize, f64)> {
        self.finished.as_ref()?.best
    }
}

impl Observer for Outcome {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Evaluated(e) => self.evaluations.push(e.clone()),
            Event::Finished(e) => self.finished = Some(e.clone()),
            Event::Compared(e) => self.compared = Some(e.clone()),
            Event::Logged(e) => self.losses.push(e.loss),
            Event::Started(e) => self.leaks = e.leaks.iter().map(|leaks| leaks.counts(false)).collect(),
            Event::Step(e) if e.step == 1 => self.first_loss = Some(e.loss),
            Event::Data(_) | Event::Step(_) | Event::Saved(_) | Event::SaveFailed(_) | Event::Trouble(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Error,
        report::testing::{evaluated, finished, logged, started},
    };

    /// Fails while it is told to, and notes what it hears.
    #[derive(Default)]
    struct Failing<'a> {
        fails: Option<&'a std::cell::Cell<bool>>,
        troubles: Vec<String>,
        finished: bool,
    }

    impl Observer for Failing<'_> {
        fn on_event(&mut self, event: &Event) -> Result<()> {
            match event {
                Event::Trouble(e) => self.troubles.push(e.what.clone()),
                Event::Finished(_) => self.finished = true,
                _ => {}
            }
            if self.fails.is_some_and(std::cell::Cell::get) { Err(Error::run("disk full")) } else { Ok(()) }
        }
    }

    #[test]
    fn a_failing_report_is_said_once_and_is_an_error_at_the_end() {
        let fails = std::cell::Cell::new(true);
        let (mut failing, mut other) = (Failing { fails: Some(&fails), ..Default::default() }, Failing::default());
        let mut observers = Observers::default();
        observers.push(&mut failing);
        observers.push(&mut other);
        for (step, fail) in [(1, true), (2, true), (3, false), (4, true)] {
            fails.set(fail);
            observers.on_event(&Event::Logged(logged(step, 9, 1.0))).unwrap();
        }
        let err = observers.on_event(&Event::Finished(finished(9, 1.0))).unwrap_err();
        assert_eq!(err.to_string(), "disk full");
        drop(observers);
        assert_eq!(other.troubles, ["disk full"; 2], "once, and once more after it had worked");
        assert!(other.finished, "the end is told to all");
    }

    #[test]
    fn the_outcome_is_the_loss_before_and_after() {
        let told = |phases: &[EvalPhase]| {
            let mut outcome = Outcome::default();
            outcome.on_event(&started(10)).unwrap();
            for (i, &when) in phases.iter().enumerate() {
                outcome.on_event(&Event::Evaluated(evaluated(i, 10, 5.0 - i as f64, when))).unwrap();
            }
            (outcome.loss_before(), outcome.loss_after())
        };
        use EvalPhase::{Before, During, Final};
        assert_eq!(told(&[]), (None, None));
        assert_eq!(told(&[Before]), (Some(5.0), None), "before is not after");
        assert_eq!(told(&[Before, During, Final]), (Some(5.0), Some(3.0)));
        assert_eq!(told(&[During, During]), (None, Some(4.0)));
    }

    #[test]
    fn the_outcome_knows_an_early_end_and_whose_adapter_it_is() {
        let of = |step, best| Outcome {
            finished: Some(Finished { total_steps: 20, best, ..finished(step, 1.0) }),
            ..Outcome::default()
        };
        for (outcome, early, adapter, chosen) in [
            (of(20, None), None, Some(20), None),
            (of(4, None), Some((4, 20)), Some(4), None),
            (of(4, Some((2, 0.5))), Some((4, 20)), Some(2), Some((2, 0.5))),
            (of(20, Some((6, 0.5))), None, Some(6), Some((6, 0.5))),
            (Outcome::default(), None, None, None),
        ] {
            assert_eq!((outcome.stopped_early(), outcome.adapter_step(), outcome.chosen()), (early, adapter, chosen));
        }
    }
}
