//! Which tokens of a row are trained, in a few bytes.

use super::IGNORE;
use std::ops::Range;

/// The positions of a row that are trained, as runs. A label is the id of its token or [`IGNORE`], so a second list of ids would
/// say nothing more, and take as much memory as the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrainedSpans(Box<[Range<u32>]>);

impl TrainedSpans {
    /// Of a row whose stretches, one behind the other, have so many tokens, which are trained or not.
    pub fn of_stretches(stretches: impl IntoIterator<Item = (usize, bool)>) -> Self {
        let (mut runs, mut end): (Vec<Range<u32>>, u32) = (vec![], 0);
        for (tokens, trained) in stretches.into_iter().filter(|(tokens, _)| *tokens > 0) {
            let start = end;
            end += tokens as u32;
            match runs.last_mut() {
                _ if !trained => {}
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        Self(runs.into())
    }

    /// Of labels as LlamaFactory has them, [`IGNORE`] where nothing is trained.
    pub fn of(labels: &[u32]) -> Self {
        Self::of_stretches(labels.iter().map(|label| (1, *label != IGNORE)))
    }

    /// Where they stand, ascending.
    pub fn positions(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.0.iter().flat_map(|run| run.start as usize..run.end as usize)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_say_what_labels_say() {
        let x = IGNORE;
        for (labels, runs) in [
            (vec![], 0),
            (vec![x, x], 0),
            (vec![7], 1),
            (vec![7, 7, 7], 1),
            (vec![x, 7, 7], 1),
            (vec![7, x, 7], 2),
            (vec![x, 7, x, x, 7, 7, x], 2),
        ] {
            let got = TrainedSpans::of(&labels);
            let places: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] != IGNORE).collect();
            assert_eq!(got.positions().collect::<Vec<_>>(), places, "{labels:?}");
            assert_eq!((got.count(), got.0.len()), (places.len(), runs), "{labels:?}");
        }
        let stretches = [(2, false), (1, true), (0, false), (2, true), (3, false)];
        assert_eq!(TrainedSpans::of_stretches(stretches), TrainedSpans::of(&[x, x, 1, 1, 1, x, x, x]));
    }
}
