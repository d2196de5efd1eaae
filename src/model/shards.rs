//! Weights into safetensors files, piece by piece: no more in memory than the piece that is being written.
//!
//! File names, index and the order of filling are those of Hugging Face's `save_pretrained`.

use crate::{
    error::{Error, Result},
    fs::{ops, unwritable},
};
use candle_core::{DType, Tensor};
use safetensors::View;
use serde_json::{Map, Value, json};
use std::path::Path;

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its dtype in the file.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

impl Entry {
    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.size_in_bytes()) as u64
    }
}

/// Bytes of all of them.
pub fn total(entries: &[Entry]) -> u64 {
    entries.iter().map(Entry::bytes).sum()
}

/// Fills shards of at most `max_bytes` in order; a tensor that is larger gets one by itself.
pub fn split(entries: Vec<Entry>, max_bytes: u64) -> Vec<Vec<Entry>> {
    let mut shards: Vec<Vec<Entry>> = vec![];
    let mut room = 0;
    for entry in entries {
        let bytes = entry.bytes();
        match shards.last_mut().filter(|_| bytes <= room) {
            Some(shard) => shard.push(entry),
            None => {
                shards.push(vec![entry]);
                room = max_bytes;
            }
        }
        room = room.saturating_sub(bytes);
    }
    shards
}

/// The name of shard `i` (from 0) of `n`.
pub fn file_name(i: usize, n: usize) -> String {
    if n == 1 { "model.safetensors".into() } else { format!("model-{:05}-of-{n:05}.safetensors", i + 1) }
}

/// The text of `model.safetensors.index.json`, which several shards need.
pub fn index(shards: &[Vec<Entry>]) -> String {
    let mut map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        map.extend(shard.iter().map(|entry| (entry.name.clone(), file_name(i, shards.len()).into())));
    }
    map.sort_keys();
    let size: u64 = shards.iter().map(|shard| total(shard)).sum();
    let parameters: usize = shards.iter().flatten().map(|entry| entry.shape.iter().product::<usize>()).sum();
    let index = json!({"metadata": {"total_parameters": parameters, "total_size": size}, "weight_map": map});
    serde_json::to_string_pretty(&index).expect("plain JSON") + "\n"
}

/// Writes one shard and syncs it. `values` gives a tensor in pieces, each in the dtype of the entry, rows in order.
pub fn write(
    path: &Path,
    entries: &[Entry],
    mut values: impl FnMut(&Entry, &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let failed = |err: std::io::Error| unwritable(path, &err);
    let file = ops::create(path).map_err(failed)?;
    ops::write_all(&file, path, &header(entries)?).map_err(failed)?;
    for entry in entries {
        let mut written = 0;
        values(entry, &mut |piece| {
            written += piece.elem_count();
            assert_eq!(piece.dtype(), entry.dtype, "{}", entry.name);
            ops::write_all(&file, path, &piece.data()).map_err(failed)
        })?;
        if written != entry.shape.iter().product::<usize>() {
            return Err(Error::run(format!("internal error: {} values of {} were written", written, entry.name)));
        }
    }
    ops::sync_file(&file, path).map_err(failed)
}

/// The length and the JSON in front of the values, which follow in this order; padded so that they are aligned.
pub fn header(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut offset = 0;
    for entry in entries {
        let dtype = match entry.dtype {
            DType::F32 => "F32",
            DType::BF16 => "BF16",
            DType::F16 => "F16",
            other => return Err(Error::run(format!("internal error: {other:?} is not written"))),
        };
        let end = offset + entry.bytes();
        map.insert(entry.name.clone(), json!({"dtype": dtype, "shape": entry.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes(), text.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Checkpoint,
        testing::{assert_close, wave},
    };
    use candle_core::Device;

    fn entry(name: &str, dtype: DType, shape: &[usize]) -> Entry {
        Entry { name: name.into(), dtype, shape: shape.to_vec() }
    }

    #[test]
    fn shards_are_filled_in_order() {
        let all = || ["a", "b", "c", "d"].map(|name| entry(name, DType::F32, &[10])).to_vec();
        for (max, want) in [(1000, vec![4]), (80, vec![2, 2]), (120, vec![3, 1]), (1, vec![1; 4])] {
            let shards = split(all(), max);
            assert_eq!(shards.iter().map(Vec::len).collect::<Vec<_>>(), want, "{max} bytes a file");
            assert_eq!(shards.concat(), all());
        }
        assert_eq!(
            (file_name(0, 1), file_name(1, 12)),
            ("model.safetensors".into(), "model-00002-of-00012.safetensors".into())
        );
    }

    #[test]
    fn what_is_written_in_pieces_reads_back_equal() {
        let dir = tempfile::tempdir().unwrap();
        let values = wave((6, 3), 0.2, &Device::Cpu).unwrap();
        let entries =
            vec![entry("b", DType::BF16, &[6, 3]), entry("a", DType::F32, &[6, 3]), entry("c", DType::F16, &[18])];
        let shards = split(entries, 80);
        assert_eq!(shards.len(), 3);
        for (i, shard) in shards.iter().enumerate() {
            write(&dir.path().join(file_name(i, 3)), shard, |entry, put| {
                let values = values.to_dtype(entry.dtype)?.reshape(entry.shape.as_slice())?;
                let half = entry.shape[0] / 3;
                put(&values.narrow(0, 0, half)?)?;
                put(&values.narrow(0, half, entry.shape[0] - half)?)
            })
            .unwrap();
        }
        std::fs::write(dir.path().join("model.safetensors.index.json"), index(&shards)).unwrap();
        let read = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(read.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        for (name, dtype, shape) in
            [("a", DType::F32, &[6, 3][..]), ("b", DType::BF16, &[6, 3]), ("c", DType::F16, &[18])]
        {
            assert_eq!(read.info(name), Some((dtype, shape)));
            let want = values.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap().reshape(shape).unwrap();
            assert_close(&read.tensor(name, shape, DType::F32, &Device::Cpu).unwrap(), &want, 0.0);
            let part = read.rows(name, 1..3).unwrap().to_dtype(DType::F32).unwrap();
            assert_close(&part, &want.narrow(0, 1, 2).unwrap(), 0.0);
        }
        let json: Value = serde_json::from_str(&index(&shards)).unwrap();
        assert_eq!(json["metadata"], json!({"total_parameters": 54, "total_size": 6 * 3 * 2 * 4}));
    }
}
