//! `trainer_log.jsonl`: one line per log, per evaluation, and one at the end, in LlamaFactory's keys, order and numbers; behind
//! them one that says the end once more, with what was planned and what was measured.
//!
//! LLaMA Board and other viewers poll this file during the run. Written from the events and nothing else.

use super::lang::duration;
use crate::{
    error::Result,
    fs::{LogFile, write_atomic},
    json::{self, Object},
    trainer::event::{Compared, EvalPhase, Evaluated, Event, Finished, Observer, Sample, SetRead, Took},
};
use serde_json::{Value, json};
use std::path::Path;

/// The file's name in `output_dir`.
pub const TRAINER_LOG: &str = "trainer_log.jsonl";

/// Writes [`TRAINER_LOG`]. A line that could not be written is kept and comes before the next one.
#[derive(Debug)]
pub struct TrainerLog {
    file: LogFile,
    unwritten: Vec<String>,
}

impl TrainerLog {
    /// Goes on after `history` (empty: nothing yet): the log is written again from it, so that each step stands in it once,
    /// whatever an interrupted process left there.
    pub fn resume(output_dir: &Path, history: &[Event]) -> Result<Self> {
        let path = output_dir.join(TRAINER_LOG);
        let mut text = String::new();
        for entry in history.iter().filter_map(Entry::of) {
            text += &json::line(&entry.to_json())?;
            text.push('\n');
        }
        write_atomic(&path, text.as_bytes())?;
        Ok(Self { file: LogFile::append(&path)?, unwritten: vec![] })
    }
}

impl Observer for TrainerLog {
    fn on_event(&mut self, event: &Event) -> Result<()> {
        let Some(entry) = Entry::of(event) else { return Ok(()) };
        self.unwritten.push(json::line(&entry.to_json())?);
        while let Some(line) = self.unwritten.first() {
            self.file.line(line)?;
            self.unwritten.remove(0);
        }
        // Lines are handed to the system one by one; a finished run says that they are on the disk.
        if matches!(event, Event::Finished(_) | Event::Compared(_)) { self.file.sync() } else { Ok(()) }
    }
}

/// What a line is made of.
struct Entry<'e> {
    step: usize,
    total_steps: usize,
    metrics: Vec<(String, f64)>,
    epoch: f64,
    elapsed: f64,
    tokens: Option<u64>,
    samples: &'e [Sample],
    sets: &'e [SetRead],
    compared: Option<&'e Compared>,
}

impl<'e> Entry<'e> {
    /// `None` where LlamaFactory writes nothing: its final evaluation comes after it has closed the log, and it has none
    /// before training, which stands here only with what the base wrote. Nor does it say what became of the rows; here a line
    /// does, in its own dialect where some were left out.
    fn of(event: &'e Event) -> Option<Self> {
        match event {
            Event::Data(e) if e.always_logged || e.sets.iter().any(|set| set.skipped > 0) => Some(Self {
                step: 0,
                total_steps: e.total_steps,
                metrics: vec![],
                samples: &[],
                sets: &e.sets,
                compared: None,
                epoch: 0.0,
                elapsed: 0.0,
                tokens: None,
            }),
            Event::Logged(e) => Some(Self {
                step: e.step,
                total_steps: e.total_steps,
                metrics: vec![("loss".into(), e.loss), ("lr".into(), e.lr)],
                samples: &[],
                sets: &[],
                compared: None,
                epoch: e.epoch,
                elapsed: e.elapsed,
                tokens: e.num_input_tokens_seen,
            }),
            Event::Evaluated(e) if e.when == EvalPhase::During || is_of_the_base(e) => Some(Self {
                step: e.step,
                total_steps: e.total_steps,
                metrics: e.metrics(),
                samples: e.written.as_ref().map_or(&[], |written| &written.samples),
                sets: &[],
                compared: None,
                epoch: e.epoch,
                elapsed: e.elapsed,
                tokens: e.num_input_tokens_seen,
            }),
            Event::Finished(e) => Some(Self::end(e)),
            Event::Compared(e) => Some(Self { compared: Some(e), ..Self::end(&e.finished) }),
            _ => None,
        }
    }

    fn end(e: &Finished) -> Self {
        Self {
            step: e.step,
            total_steps: e.total_steps,
            metrics: vec![],
            samples: &[],
            sets: &[],
            compared: None,
            epoch: e.epoch,
            elapsed: e.runtime,
            tokens: e.num_input_tokens_seen,
        }
    }

    fn to_json(&self) -> Object {
        let mut line = Object::new();
        line.insert("current_steps".into(), self.step.into());
        line.insert("total_steps".into(), self.total_steps.into());
        line.extend(self.metrics.iter().map(|(key, value)| (key.clone(), (*value).into())));
        line.insert("epoch".into(), self.epoch.into());
        let percentage = self.step as f64 / self.total_steps as f64 * 100.0;
        line.insert("percentage".into(), json::round(percentage, 2).into());
        let per_step = if self.step == 0 { 0.0 } else { self.elapsed / self.step as f64 };
        let remaining = self.total_steps.saturating_sub(self.step) as f64 * per_step;
        line.insert("elapsed_time".into(), duration(self.elapsed).into());
        line.insert("remaining_time".into(), duration(remaining).into());
        if let Some(tokens) = self.tokens.filter(|&n| n > 0) {
            line.insert("throughput".into(), json::round(tokens as f64 / self.elapsed, 2).into());
            line.insert("total_tokens".into(), tokens.into());
        }
        if !self.samples.is_empty() {
            let samples = self.samples.iter().map(|sample| json!({"prompt": sample.prompt, "answer": sample.answer}));
            line.insert("samples".into(), samples.collect());
        }
        if !self.sets.is_empty() {
            line.insert("data".into(), self.sets.iter().map(set_read).collect());
        }
        for (key, took) in self.compared.iter().flat_map(|e| [("planned", e.planned), ("measured", e.measured)]) {
            let Took { train_seconds, peak_memory_bytes } = took;
            line.insert(key.into(), json!({"train_seconds": train_seconds, "peak_memory_bytes": peak_memory_bytes}));
        }
        line
    }
}

fn set_read(set: &SetRead) -> Value {
    let SetRead { name, read, kept, skipped, reasons } = set;
    json!({"name": name, "read": read, "kept": kept, "skipped": skipped, "reasons": reasons})
}

fn is_of_the_base(e: &Evaluated) -> bool {
    e.when == EvalPhase::Before && e.written.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::testing::{evaluated, finished, lf_events, lf_text, logged},
        trainer::event::{DataRead, Written},
    };

    fn written(events: &[Event]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut log = TrainerLog::resume(dir.path(), &[]).unwrap();
        events.iter().for_each(|event| log.on_event(event).unwrap());
        std::fs::read_to_string(dir.path().join(TRAINER_LOG)).unwrap()
    }

    /// Replaces what the machine's clock decides.
    fn without_times(text: &str) -> Vec<String> {
        let lines = text.lines().map(|line| {
            let mut object: Object = serde_json::from_str(line).unwrap();
            for (key, value) in object.iter_mut() {
                if matches!(key.as_str(), "elapsed_time" | "remaining_time" | "throughput") {
                    *value = "…".into();
                }
            }
            json::line(&object).unwrap()
        });
        lines.collect()
    }

    #[test]
    fn the_log_is_llamafactorys_line_by_line() {
        let want = lf_text("trainer_log.jsonl");
        let unmasked: Vec<&str> = want.lines().map(|line| line.split(", \"elapsed_time\"").next().unwrap()).collect();
        let got = written(&lf_events());
        assert_eq!(without_times(&got), without_times(&want), "keys, order, values");
        for (got, want) in got.lines().zip(unmasked) {
            assert!(got.starts_with(want), "spelling of numbers: {got}");
        }
    }

    #[test]
    fn what_was_left_out_stands_first_with_the_keys_that_viewers_read() {
        let set = |skipped| SetRead {
            name: "a".into(),
            read: 9,
            kept: 9 - skipped,
            skipped,
            reasons: [("no_response".to_owned(), skipped)].into_iter().filter(|(_, rows)| *rows > 0).collect(),
        };
        let data =
            |skipped, always_logged| Event::Data(DataRead { total_steps: 5, sets: vec![set(skipped)], always_logged });
        assert_eq!(written(&[data(0, false)]), "", "as LlamaFactory where nothing was");
        assert!(written(&[data(0, true)]).contains("\"read\": 9, \"kept\": 9, \"skipped\": 0, \"reasons\": {}}]}"));
        let want = "{\"current_steps\": 0, \"total_steps\": 5, \"epoch\": 0.0, \"percentage\": 0.0, \"elapsed_time\": \"0:00:00\", \
            \"remaining_time\": \"0:00:00\", \"data\": [{\"name\": \"a\", \"read\": 9, \"kept\": 7, \"skipped\": 2, \
            \"reasons\": {\"no_response\": 2}}]}\n";
        assert_eq!(written(&[data(2, false)]), want);
    }

    #[test]
    fn the_last_line_is_the_end_again_with_the_plan_beside_it() {
        let end = Finished { runtime: 8.0, ..finished(4, 1.0) };
        let planned = Took { train_seconds: Some(7.5), peak_memory_bytes: Some(1000) };
        let measured = Took { train_seconds: Some(8.0), peak_memory_bytes: None };
        let compared = Compared { finished: end.clone(), planned, measured };
        let text = written(&[Event::Finished(end), Event::Compared(compared)]);
        let (end, last) = text.trim_end().split_once('\n').expect("two lines");
        let more = "\"planned\": {\"train_seconds\": 7.5, \"peak_memory_bytes\": 1000}, \
            \"measured\": {\"train_seconds\": 8.0, \"peak_memory_bytes\": null}}";
        assert_eq!(last, format!("{}, {more}", end.trim_end_matches('}')), "what viewers read of the last line stays");
    }

    #[test]
    fn times_and_throughput_come_from_the_event() {
        let line = |step, elapsed, tokens| {
            let mut event = logged(step, 10, 1.5);
            event.elapsed = elapsed;
            event.num_input_tokens_seen = tokens;
            written(&[Event::Logged(event)])
        };
        for (step, elapsed, tokens, want, why) in [
            (1, 61.9, None, r#""elapsed_time": "0:01:01", "remaining_time": "0:09:17"}"#, "9 steps of 61.9 s"),
            (10, 7200.0, None, r#""elapsed_time": "2:00:00", "remaining_time": "0:00:00"}"#, "nothing remains"),
            (4, 8.0, Some(1001), r#""throughput": 125.12, "total_tokens": 1001}"#, "125.125 rounds to even"),
            (4, 8.0, Some(0), r#""remaining_time": "0:00:12"}"#, "LlamaFactory leaves out a zero"),
        ] {
            let got = line(step, elapsed, tokens);
            assert!(got.ends_with(&format!("{want}\n")), "{why}: {got}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_line_that_could_not_be_written_comes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TRAINER_LOG);
        // A device that is always full stands in for the file.
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let file = LogFile::append(&path);
        let Ok(file) = file else { return }; // no such device
        let mut log = TrainerLog { file, unwritten: vec![] };
        log.on_event(&Event::Logged(logged(1, 3, 1.0))).unwrap_err();
        log.on_event(&Event::Logged(logged(2, 3, 1.0))).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        log.file = LogFile::append(&path).unwrap();
        log.on_event(&Event::Logged(logged(3, 3, 1.0))).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<&str> = text.lines().map(|line| &line[..20]).collect();
        assert_eq!(steps, ["{\"current_steps\": 1,", "{\"current_steps\": 2,", "{\"current_steps\": 3,"]);
    }

    #[test]
    fn what_was_written_stands_behind_llamafactorys_keys() {
        let samples = vec![Sample { prompt: "春".into(), answer: "秋\"".into() }];
        for (when, lines) in [(EvalPhase::Before, 1), (EvalPhase::During, 1), (EvalPhase::Final, 0)] {
            let written = Some(Written { samples: samples.clone(), couplet_pass: Some(0.5) });
            let text = super::tests::written(&[Event::Evaluated(Evaluated { written, ..evaluated(5, 10, 2.0, when) })]);
            assert_eq!(text.lines().count(), lines, "{when:?}");
            for line in text.lines() {
                assert!(line.contains(r#""eval_loss": 2.0, "eval_couplet_pass": 0.5, "epoch""#), "{line}");
                assert!(line.ends_with(r#""samples": [{"prompt": "春", "answer": "秋\""}]}"#), "{line}");
            }
        }
    }

    #[test]
    fn only_evaluations_during_training_are_logged() {
        for (when, lines) in [(EvalPhase::Before, 0), (EvalPhase::During, 1), (EvalPhase::Final, 0)] {
            assert_eq!(written(&[Event::Evaluated(evaluated(5, 10, 2.0, when))]).lines().count(), lines, "{when:?}");
        }
    }
}
