//! Those who watch: log files, result files, loss curves, console and model card, all drawn from [`Event`]s.

pub mod json;
pub mod lang;
pub mod log;
pub mod plot;
pub mod results;
#[cfg(test)]
mod testing;

pub use lang::Lang;
pub use log::TrainerLog;
pub use plot::LossPlot;
pub use results::Results;

use crate::{
    error::Result,
    trainer::event::{Event, Observer},
};

/// Several observers as one. Each event goes to all of them in order; the first error ends the round and the run.
#[derive(Default)]
pub struct Observers<'a>(pub Vec<Box<dyn Observer + 'a>>);

impl Observer for Observers<'_> {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        self.0.iter_mut().try_for_each(|observer| observer.on_event(event))
    }
}
