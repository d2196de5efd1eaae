//! The rows of data sets in the order of a run: read, drawn, joined.

use crate::{
    config::{DataConfig, MixStrategy},
    dataset::{
        Origin,
        encode::Row,
        fault::Fault,
        mix, notes,
        record::{self, How, Record},
        registry::{self, Entry},
        summary::{FileSummary, Part, Warning},
    },
    error::{Error, Result},
};

/// A row in its place, or why it is left out.
///
/// A row that is left out keeps its place until the rows are split and packed: LlamaFactory drops it as late as that.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    origin: Origin,
    row: Result<Record, Box<Fault>>,
}

/// The rows of a split, and those that are left out of it.
#[derive(Debug, Clone, Default)]
pub struct Split {
    /// In split order.
    pub rows: Vec<Row>,
    /// In the same order.
    pub left_out: Vec<LeftOut>,
}

/// A row that is left out.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// Rows of the split before it that are not.
    pub(super) before: usize,
    /// Where it stands.
    pub origin: Origin,
    /// Why, and where in the file.
    pub fault: Fault,
}

impl Split {
    /// Rows that it got.
    pub(super) fn read(&self) -> usize {
        self.rows.len() + self.left_out.len()
    }

    pub(super) fn of(slots: Vec<Slot>) -> Self {
        let (mut before, mut left_out) = (0, vec![]);
        // Collected where the slots were: rows of a large data set should not stand there twice.
        let rows = slots.into_iter().filter_map(|Slot { origin, row }| match row {
            Ok(record) => {
                before += 1;
                Some(Row { origin, record })
            }
            Err(fault) => {
                left_out.push(LeftOut { before, origin, fault: *fault });
                None
            }
        });
        Self { rows: rows.collect(), left_out }
    }
}

/// Reads data sets one after the other and numbers them.
pub(super) struct Reader {
    seed: u64,
    /// Draws `num_samples`, for training data sets first and then for held-out ones.
    sampler: mix::Sampler,
    pub(super) files: Vec<FileSummary>,
    pub(super) warnings: Vec<Warning>,
}

impl Reader {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, sampler: mix::Sampler::new(seed), files: vec![], warnings: vec![] }
    }

    /// The rows of the data sets `names`, joined as `data` says.
    pub(super) fn read(&mut self, data: &DataConfig, names: &[String]) -> Result<Vec<Slot>> {
        let mut slots = Vec::new();
        if names.is_empty() {
            return Ok(slots);
        }
        let (first, mut lengths) = (self.files.len(), Vec::new());
        for entry in registry::look_up(&data.dataset_dir, &self.without_repeats(names))? {
            let before = slots.len();
            self.read_one(entry, data, &mut slots)?;
            lengths.push(slots.len() - before);
        }
        if data.mix_strategy == MixStrategy::Concat || lengths.len() == 1 {
            return Ok(slots);
        }
        if !data.interleave_probs.is_empty() && data.interleave_probs.len() != lengths.len() {
            return Err(Error::input("`interleave_probs` has a share for a data set that is listed twice")
                .hint("name every data set once")
                .hint_zh("每个数据集请只列一次"));
        }
        let order = mix::joined(&lengths, data.mix_strategy, &data.interleave_probs, self.seed);
        let mixed: Vec<Slot> = order.into_iter().map(|slot| slots[slot].clone()).collect();
        for (dataset, file) in self.files.iter_mut().enumerate().skip(first) {
            (file.read, file.mixed) = (mixed.iter().filter(|slot| slot.origin.dataset == dataset).count(), true);
        }
        Ok(mixed)
    }

    /// LlamaFactory keeps its data sets by name, so a name listed twice is trained once.
    fn without_repeats(&mut self, names: &[String]) -> Vec<String> {
        let mut kept: Vec<String> = Vec::new();
        for name in names {
            if kept.contains(name) {
                self.warnings.push(Warning {
                    en: format!("data set \"{name}\" is listed twice; it is read once"),
                    zh: format!("数据集 \"{name}\" 重复列出，只读取一次"),
                });
            } else {
                kept.push(name.clone());
            }
        }
        kept
    }

    fn read_one(&mut self, entry: Entry, data: &DataConfig, slots: &mut Vec<Slot>) -> Result<()> {
        let limit = if entry.num_samples.is_some() { None } else { data.max_samples };
        let parsed = record::read(&entry.files, How { shape: &entry.shape, limit, on_bad_row: data.on_bad_row })?;
        let dataset = self.files.len();
        let slot = |row: usize, record| Slot { origin: Origin { dataset, row: row + 1 }, row: record };
        let mut of_file: Vec<Slot> =
            parsed.rows.into_iter().enumerate().map(|(row, record)| slot(row, record)).collect();
        if let Some(wanted) = entry.num_samples {
            let drawn = self.sampler.draw(of_file.len(), wanted).into_iter();
            of_file = drawn.take(data.max_samples.unwrap_or(usize::MAX)).map(|row| of_file[row].clone()).collect();
        }
        let path = entry.path.display().to_string();
        self.warnings.extend(entry.warnings);
        if !parsed.unmapped.is_empty() {
            self.warnings.push(Warning {
                en: format!("{path}: not mapped to anything, so not used: {}", notes::names(&parsed.unmapped, false)),
                zh: format!("{path}：以下列未被映射，不会使用：{}", notes::names(&parsed.unmapped, true)),
            });
        }
        let part = |(file, rows): (&super::files::DataFile, &usize)| Part {
            path: file.path.display().to_string(),
            rows: *rows,
        };
        self.files.push(FileSummary {
            name: entry.name,
            rows: parsed.counts.iter().sum(),
            parts: match parsed.counts.as_slice() {
                [_] if entry.files[0].path == entry.path => vec![],
                counts => entry.files.iter().zip(counts).map(part).collect(),
            },
            path,
            read: of_file.len(),
            drawn: entry.num_samples.is_some(),
            ..FileSummary::default()
        });
        match slots.is_empty() {
            true => *slots = of_file, // not there twice
            false => slots.extend(of_file),
        }
        Ok(())
    }
}
