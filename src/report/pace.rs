//! How fast a run goes and how long it will take, from its steps.

use crate::trainer::event::Step;

/// How fast it goes: rates over the steps since the last log line, the time left from all steps. Evaluations do not count.
#[derive(Debug, Default)]
pub struct Pace {
    /// Steps of the whole run.
    pub total_steps: usize,
    steps: usize,
    seconds: f64,
    /// Moving average of the step losses, for the bar.
    pub loss: f64,
    window: Window,
    /// The next step begins a new window.
    window_ended: bool,
}

#[derive(Debug, Default)]
struct Window {
    samples: usize,
    tokens: usize,
    seconds: f64,
}

impl Pace {
    /// Before the first of `total_steps` steps.
    pub fn new(total_steps: usize) -> Self {
        Self { total_steps, ..Self::default() }
    }

    /// Another step is done.
    pub fn step(&mut self, e: &Step) {
        self.loss = if self.steps == 0 { e.loss } else { 0.9 * self.loss + 0.1 * e.loss };
        self.steps += 1;
        self.seconds += e.seconds;
        if std::mem::take(&mut self.window_ended) {
            self.window = Window::default();
        }
        self.window.samples += e.samples;
        self.window.tokens += e.tokens;
        self.window.seconds += e.seconds;
    }

    /// A log line was written; the rates hold until the next step.
    pub fn start_window(&mut self) {
        self.window_ended = true;
    }

    /// Mean over all steps.
    pub fn seconds_per_step(&self) -> f64 {
        if self.steps == 0 { 0.0 } else { self.seconds / self.steps as f64 }
    }

    /// Over the window.
    pub fn samples_per_second(&self) -> f64 {
        rate(self.window.samples, self.window.seconds)
    }

    /// Over the window; real tokens.
    pub fn tokens_per_second(&self) -> f64 {
        rate(self.window.tokens, self.window.seconds)
    }
}

fn rate(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::testing::step, trainer::event::Event};

    #[test]
    fn the_pace_is_that_of_the_steps_since_the_last_line() {
        let mut pace = Pace::default();
        let mut told = Vec::new();
        for seconds in [2.0, 1.0, 0.5] {
            let Event::Step(e) = step(1, 1.0, seconds) else { panic!() };
            pace.step(&e);
            told.push((pace.samples_per_second(), pace.seconds_per_step()));
            pace.start_window();
        }
        assert_eq!(told, [(2.0, 2.0), (4.0, 1.5), (8.0, 3.5 / 3.0)]);
        assert_eq!(rate(5, 0.0), 0.0, "no time, no rate");
    }
}
