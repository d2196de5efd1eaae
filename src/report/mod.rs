//! Those who watch: log files, result files, loss curves, console and model card, all drawn from [`Event`]s.

pub mod console;
pub mod json;
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

pub use console::Console;
pub use lang::Lang;
pub use log::TrainerLog;
pub use look::{Look, Progress, Verbosity};
pub use model_card::model_card;
pub use plot::LossPlot;
pub use results::Results;
pub use text::{Header, Summary};

use crate::{
    error::Result,
    trainer::event::{EvalPhase, Evaluated, Event, Finished, Observer},
};

/// Several observers as one. Each event goes to all of them in order; the first error ends the round and the run.
#[derive(Default)]
pub struct Observers<'a>(pub Vec<Box<dyn Observer + 'a>>);

impl Observer for Observers<'_> {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        self.0.iter_mut().try_for_each(|observer| observer.on_event(event))
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
    /// The end, once it is there.
    pub finished: Option<Finished>,
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
}

impl Observer for Outcome {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Evaluated(e) => self.evaluations.push(e.clone()),
            Event::Finished(e) => self.finished = Some(e.clone()),
            Event::Started(_) | Event::Step(_) | Event::Logged(_) | Event::Saved(_) | Event::SaveFailed(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Error,
        report::testing::{evaluated, finished, started},
    };

    #[test]
    fn every_observer_is_told_until_one_fails() {
        struct Failing;
        impl Observer for Failing {
            fn on_event(&mut self, _: &Event) -> Result<()> {
                Err(Error::run("disk full"))
            }
        }
        let (mut first, mut last) = (Outcome::default(), Outcome::default());
        let mut observers = Observers(vec![Box::new(&mut first), Box::new(Failing), Box::new(&mut last)]);
        let err = observers.on_event(&Event::Finished(finished(1, 1.0))).unwrap_err();
        assert_eq!(err.to_string(), "disk full");
        drop(observers);
        assert!(first.finished.is_some() && last.finished.is_none());
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
}
