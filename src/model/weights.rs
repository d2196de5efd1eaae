//! Weights out of safetensors files, name by name, read once and digested while they are read.

use crate::{
    error::{Error, Result, io_reason},
    kernels::FrozenWeight,
};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Metadata;
use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

/// Bytes that are read at a time where a tensor is not needed whole.
const PIECE: usize = 64 << 20;

/// The bytes of f32 values as safetensors files hold them, little-endian.
pub fn f32_bytes(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }
}

/// An open checkpoint: one `model.safetensors`, or the shards of `model.safetensors.index.json`.
///
/// Only headers are read when it is opened. Tensors are read by position, one at a time, so loading needs no more
/// memory than the model itself and its largest tensor.
pub struct Checkpoint {
    dir: PathBuf,
    tensors: BTreeMap<String, Place>,
    digests: RefCell<BTreeMap<String, blake3::Hash>>,
}

/// Other values for some rows of a matrix, on the CPU: its name, the rows, and the values in the dtype of the model.
pub type Change<'a> = dyn Fn(&str, Range<usize>, Tensor) -> Result<Tensor> + 'a;

struct Place {
    shard: PathBuf,
    dtype: DType,
    shape: Vec<usize>,
    /// Byte range in the file.
    start: u64,
    len: usize,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir`. Errors: no weights, a missing shard, a damaged header.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        let (shards, map) = shards(dir)?;
        for shard in shards {
            read_header(&shard, &mut tensors, damaged)?;
        }
        refuse_misplaced(dir, &map, &tensors)?;
        Ok(Self { dir: dir.to_owned(), tensors, digests: RefCell::default() })
    }

    /// One safetensors file by itself (an adapter).
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        read_header(path, &mut tensors, damaged_adapter)?;
        Ok(Self { dir: path.to_owned(), tensors, digests: RefCell::default() })
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether a tensor of that name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Dtype and shape of a tensor, if it is there.
    pub fn info(&self, name: &str) -> Option<(DType, &[usize])> {
        self.tensors.get(name).map(|place| (place.dtype, place.shape.as_slice()))
    }

    /// The first dimension of `name` from row `rows.start` to before `rows.end`, in the dtype of the file, on the CPU.
    ///
    /// Such a part is not in [`Self::digest`].
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Tensor> {
        let place = self.place(name)?;
        let (all, width) = (place.shape.first().copied().unwrap_or(1), place.shape.iter().skip(1).product::<usize>());
        if rows.end > all {
            return Err(Error::file(
                &place.shard,
                format!("tensor {name} has {all} rows, row {} was asked for", rows.end),
            ));
        }
        let size = width * place.dtype.size_in_bytes();
        let bytes = place
            .read(rows.start * size..rows.end * size)
            .map_err(|err| Error::file(&place.shard, format!("cannot read {name}: {}", io_reason(&err))))?;
        let mut shape = place.shape.clone();
        shape[0] = rows.len();
        Ok(Tensor::from_raw_buffer(&bytes, place.dtype, &shape, &Device::Cpu)?)
    }

    /// Reads a tensor for nothing but [`Self::digest`], piece by piece; one that was read already is not read again.
    pub fn take_note(&self, name: &str) -> Result<()> {
        let place = self.place(name)?;
        if self.digests.borrow().contains_key(name) {
            return Ok(());
        }
        let mut hasher = blake3::Hasher::new();
        for start in (0..place.len).step_by(PIECE) {
            let bytes = place
                .read(start..(start + PIECE).min(place.len))
                .map_err(|err| Error::file(&place.shard, format!("cannot read {name}: {}", io_reason(&err))))?;
            hasher.update_rayon(&bytes);
        }
        self.digests.borrow_mut().insert(name.to_owned(), hasher.finalize());
        Ok(())
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.tensors.get(name).ok_or_else(|| {
            Error::file(&self.dir, format!("tensor {name} is missing"))
                .hint("the file does not belong to this config.json, or a download was cut; fetch it again")
                .hint_zh("文件与 config.json 不符，或下载不完整；请重新下载")
        })
    }

    /// Errors: the tensor is missing, or has another shape.
    pub fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        let place = self.place(name)?;
        if place.shape == shape {
            return Ok(());
        }
        Err(Error::file(
            &place.shard,
            format!("tensor {name} has shape {:?}, {shape:?} was expected from the config", place.shape),
        )
        .hint(
            "the weights and the config.json beside the base are not of the same model; take both from one checkpoint",
        )
        .hint_zh("权重与基座的 config.json 不属于同一模型；请使用同一模型的文件"))
    }

    /// The tensor `name`, converted to `dtype` on `device`. Errors: it is missing, or its shape is not `shape`.
    pub fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        self.expect_shape(name, shape)?;
        let place = self.place(name)?;
        let bytes = place
            .read(0..place.len)
            .map_err(|err| Error::file(&place.shard, format!("cannot read {name}: {}", io_reason(&err))))?;
        self.digests.borrow_mut().insert(name.to_owned(), blake3::Hasher::new().update_rayon(&bytes).finalize());
        Ok(Tensor::from_raw_buffer(&bytes, place.dtype, shape, device)?.to_dtype(dtype)?)
    }

    /// The matrix `name` `[out, in]` as the model multiplies with it. Errors: as [`Self::tensor`].
    ///
    /// Where it is packed (bf16 on the CPU) it is read and packed piece by piece: no second copy is ever in memory.
    pub fn frozen(&self, name: &str, shape: (usize, usize), dtype: DType, device: &Device) -> Result<FrozenWeight> {
        self.frozen_changed(name, shape, (dtype, device), None)
    }

    /// As [`Self::frozen`], every piece changed on its way; the digest is that of the file.
    #[expect(clippy::disallowed_methods, reason = "loading, not a step")]
    pub fn frozen_changed(
        &self,
        name: &str,
        shape: (usize, usize),
        (dtype, device): (DType, &Device),
        change: Option<&Change>,
    ) -> Result<FrozenWeight> {
        self.expect_shape(name, &[shape.0, shape.1])?;
        let place = self.place(name)?;
        let mut hasher = blake3::Hasher::new();
        let changed = |rows: Range<usize>, piece: Tensor| match change {
            Some(change) => change(name, rows, piece.to_dtype(dtype)?),
            None => Ok(piece),
        };
        let whole = || match change {
            Some(_) => {
                let w = self.tensor(name, &[shape.0, shape.1], dtype, &Device::Cpu)?;
                Ok(changed(0..shape.0, w)?.to_device(device)?)
            }
            None => self.tensor(name, &[shape.0, shape.1], dtype, device),
        };
        let w = FrozenWeight::read(shape, (dtype, device), whole, |rows| {
            let size = shape.1 * place.dtype.size_in_bytes();
            let bytes = place
                .read(rows.start * size..rows.end * size)
                .map_err(|err| Error::file(&place.shard, format!("cannot read {name}: {}", io_reason(&err))))?;
            hasher.update_rayon(&bytes);
            let piece = Tensor::from_raw_buffer(&bytes, place.dtype, &[rows.len(), shape.1], &Device::Cpu)?;
            changed(rows, piece)
        })?;
        if hasher.count() > 0 {
            self.digests.borrow_mut().insert(name.to_owned(), hasher.finalize());
        }
        Ok(w)
    }

    /// The values of `name` in f32, row-major, whatever its shape.
    #[expect(clippy::disallowed_methods, reason = "loading, not a step")]
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let shape = self.tensors.get(name).map(|place| place.shape.clone()).unwrap_or_default();
        Ok(self.tensor(name, &shape, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1()?)
    }

    /// A digest of every tensor read so far: names, dtypes, shapes and bytes, however they are sharded.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, digest) in self.digests.borrow().iter() {
            let place = &self.tensors[name];
            hasher.update(format!("{name} {:?} {:?} ", place.dtype, place.shape).as_bytes());
            hasher.update(digest.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

impl Place {
    /// Bytes of the tensor.
    fn read(&self, range: Range<usize>) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.shard)?;
        file.seek(SeekFrom::Start(self.start + range.start as u64))?;
        let mut bytes = vec![0; range.len()];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The files of the weights, and the file of each tensor as the index has it.
fn shards(dir: &Path) -> Result<(Vec<PathBuf>, Map<String, Value>)> {
    let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
    if !index.is_file() {
        if single.is_file() {
            return Ok((vec![single], Map::new()));
        }
        return Err(Error::file(dir, "no model.safetensors and no model.safetensors.index.json")
            .hint("only safetensors checkpoints are read; convert .bin files first")
            .hint_zh("只读取 safetensors 格式的权重；请先转换 .bin 文件"));
    }
    let text = std::fs::read_to_string(&index)
        .map_err(|err| damaged(&index, format!("cannot be read: {}", io_reason(&err))))?;
    let mut json: Value =
        serde_json::from_str(&text).map_err(|err| damaged(&index, format!("not valid JSON: {err}")))?;
    let Some(Value::Object(map)) = json.get_mut("weight_map").map(Value::take) else {
        return Err(damaged(&index, "no weight_map in it"));
    };
    let plain = |name: &str| !name.is_empty() && !name.contains(['/', '\\']) && name != "..";
    let mut names = Vec::with_capacity(map.len());
    for (tensor, file) in &map {
        match file.as_str().filter(|name| plain(name)) {
            Some(name) => names.push(name),
            None => {
                let fact = format!("{tensor} lies in {file}, which is not a file name");
                return Err(damaged(&index, fact));
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    match names.iter().find(|name| !dir.join(name).is_file()) {
        None => Ok((names.into_iter().map(|name| dir.join(name)).collect(), map)),
        Some(name) => Err(Error::file(&index, format!("names {name}, which is not there"))
            .hint("the download was cut or the folder was copied in part; fetch that file")
            .hint_zh("下载不完整，或只复制了部分文件；请补上该文件")),
    }
}

/// Errors: a tensor is not in the file that the index names for it. `map` is empty where there is no index.
fn refuse_misplaced(dir: &Path, map: &Map<String, Value>, tensors: &BTreeMap<String, Place>) -> Result<()> {
    let is_in = |tensor: &str, file: &Value| {
        let place = tensors.get(tensor).and_then(|place| place.shard.file_name()?.to_str());
        place == file.as_str()
    };
    match map.iter().find(|(tensor, file)| !is_in(tensor, file)) {
        None => Ok(()),
        Some((tensor, file)) => {
            let index = dir.join("model.safetensors.index.json");
            Err(damaged(&index, format!("{tensor} is not in {file}, where it should lie")))
        }
    }
}

/// The error of a file that is not as it was published.
fn damaged(path: &Path, fact: impl std::fmt::Display) -> Error {
    Error::file(path, fact)
        .hint("the file is damaged or its download was cut; fetch it again")
        .hint_zh("文件损坏或下载不完整；请重新下载")
}

/// The error of an adapter that is not as it was written. A run has written it, here or elsewhere.
fn damaged_adapter(path: &Path, fact: String) -> Error {
    Error::file(path, fact)
        .hint("the adapter is damaged or was cut off; use that of a checkpoint of its run (`checkpoint-N`), or copy it again")
        .hint_zh("适配器损坏或不完整；请改用同一次训练的检查点（`checkpoint-N`），或重新复制")
}

/// `damaged`: the error of a file of this kind.
fn read_header(
    path: &Path,
    tensors: &mut BTreeMap<String, Place>,
    damaged: impl Fn(&Path, String) -> Error,
) -> Result<()> {
    let damaged = |fact: String| damaged(path, fact);
    let mut file = File::open(path).map_err(|err| damaged(format!("cannot be read: {}", io_reason(&err))))?;
    let size = file.metadata().map_err(|err| damaged(io_reason(&err)))?.len();
    let mut header = vec![0u8; 8];
    file.read_exact(&mut header).map_err(|_| damaged("too short for a safetensors file".into()))?;
    if header == *b"version " {
        return Err(Error::file(path, "a git-lfs pointer, not the weights")
            .hint("run `git lfs pull` in the folder of the model, or download the file itself")
            .hint_zh("请在模型文件夹内运行 `git lfs pull`，或直接下载该文件"));
    }
    let len = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
    // 100 MB, the limit of the safetensors crate.
    if len > size.saturating_sub(8).min(100_000_000) {
        return Err(damaged(format!("its header claims {len} bytes, the file has {size}")));
    }
    header.resize(8 + len as usize, 0);
    file.read_exact(&mut header[8..]).map_err(|err| damaged(io_reason(&err)))?;
    // Not SafeTensors::read_metadata: it wants the whole file in memory.
    let metadata: Metadata =
        serde_json::from_slice(&header[8..]).map_err(|err| damaged(format!("bad header: {err}")))?;
    let data = 8 + len;
    if data + metadata.data_len() as u64 != size {
        let want = data + metadata.data_len() as u64;
        return Err(damaged(format!("{size} bytes long, its header describes {want}")));
    }
    for (name, info) in metadata.tensors() {
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            other => {
                return Err(Error::file(
                    path,
                    format!("tensor {name} has dtype {other:?}; the checkpoint is quantised"),
                )
                .hint("LoRA needs the original weights in f32, bf16 or f16")
                .hint_zh("LoRA 需要 f32、bf16 或 f16 的原始权重"));
            }
        };
        if let Some(other) = tensors.get(&name) {
            let other = other.shard.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(damaged(format!("{name} is also in {other}")));
        }
        let (start, end) = info.data_offsets;
        let place = Place {
            shard: path.to_owned(),
            dtype,
            shape: info.shape.clone(),
            start: data + start as u64,
            len: end - start,
        };
        tensors.insert(name, place);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, wave};
    use std::collections::HashMap;

    fn write(path: &Path, tensors: &[(&str, &Tensor)]) {
        let map: HashMap<String, Tensor> = tensors.iter().map(|(n, t)| (n.to_string(), (*t).clone())).collect();
        candle_core::safetensors::save(&map, path).unwrap();
    }

    #[test]
    fn one_file_and_shards_read_equal_in_every_dtype() {
        let (a, b) = (wave((3, 4), 0.0, &Device::Cpu).unwrap(), wave((2, 2), 1.0, &Device::Cpu).unwrap());
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let (a, b) = (a.to_dtype(dtype).unwrap(), b.to_dtype(dtype).unwrap());
            let one = tempfile::tempdir().unwrap();
            write(&one.path().join("model.safetensors"), &[("a", &a), ("b", &b)]);
            let two = tempfile::tempdir().unwrap();
            write(&two.path().join("x-1.safetensors"), &[("a", &a)]);
            write(&two.path().join("x-2.safetensors"), &[("b", &b)]);
            let index = r#"{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}"#;
            std::fs::write(two.path().join("model.safetensors.index.json"), index).unwrap();
            let digests: Vec<String> = [one.path(), two.path()]
                .into_iter()
                .map(|dir| {
                    let checkpoint = Checkpoint::open(dir).unwrap();
                    let got = checkpoint.tensor("a", &[3, 4], DType::F32, &Device::Cpu).unwrap();
                    assert_close(&got, &a.to_dtype(DType::F32).unwrap(), 0.0);
                    checkpoint.tensor("b", &[2, 2], DType::F32, &Device::Cpu).unwrap();
                    checkpoint.digest()
                })
                .collect();
            assert_eq!(digests[0], digests[1], "sharding does not change the digest");
            let packed = Checkpoint::open(one.path()).unwrap();
            let frozen = packed.frozen("a", (3, 4), DType::BF16, &Device::Cpu).unwrap();
            packed.frozen("b", (2, 2), DType::F32, &Device::Cpu).unwrap();
            assert_eq!(packed.digest(), digests[0], "nor does packing while it is read");
            let rows = frozen.rows(&Tensor::new(&[0u32, 1, 2], &Device::Cpu).unwrap()).unwrap();
            assert_close(&rows, &a.to_dtype(DType::BF16).unwrap(), 0.0);
            assert!(packed.frozen("a", (4, 3), DType::BF16, &Device::Cpu).is_err());
            let noted = Checkpoint::open(one.path()).unwrap();
            ["a", "b"].iter().for_each(|name| noted.take_note(name).unwrap());
            assert_eq!(noted.digest(), digests[0], "nor does reading for the digest alone");
        }
    }

    /// A safetensors file with this header and so many bytes of data.
    fn raw(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn a_header_that_does_not_describe_its_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        let two = |a: &str, b: &str| format!(r#"{{"a":{{"dtype":"F32",{a}}},"b":{{"dtype":"F32",{b}}}}}"#);
        let one = |tensor: &str| format!(r#"{{"a":{{{tensor}}}}}"#);
        let many: Vec<String> = (0..100_000)
            .map(|n| format!(r#""t{n}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#, 4 * n, 4 * n + 4))
            .collect();
        for (bytes, want, why) in [
            (
                raw(&two(r#""shape":[2],"data_offsets":[0,8]"#, r#""shape":[1],"data_offsets":[12,16]"#), 16),
                "bad header",
                "a gap",
            ),
            (
                raw(&two(r#""shape":[2],"data_offsets":[0,8]"#, r#""shape":[2],"data_offsets":[4,12]"#), 12),
                "bad header",
                "an overlap",
            ),
            (
                raw(&two(r#""shape":[2],"data_offsets":[0,8]"#, r#""shape":[2],"data_offsets":[0,8]"#), 8),
                "bad header",
                "twice the same bytes",
            ),
            (raw(&one(r#""dtype":"F32","shape":[3],"data_offsets":[0,8]"#), 8), "bad header", "a shape of more bytes"),
            (raw(&one(r#""dtype":"F32","shape":[2],"data_offsets":[8,0]"#), 8), "bad header", "backwards"),
            (raw(&one(r#""dtype":"F32","shape":[2],"data_offsets":[-8,0]"#), 8), "bad header", "below zero"),
            (
                raw(&one(r#""dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]"#), 0),
                "bad header",
                "2⁶⁴ bytes",
            ),
            (
                raw(&one(r#""dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]"#), 8),
                "bad header",
                "2⁶³ values",
            ),
            (raw(&one(r#""dtype":"F31","shape":[2],"data_offsets":[0,8]"#), 8), "bad header", "no such dtype"),
            (raw(&one(r#""dtype":"I8","shape":[8],"data_offsets":[0,8]"#), 8), "has dtype I8", "whole numbers"),
            (raw(&one(r#""dtype":"F32","shape":[2]"#), 8), "bad header", "no place"),
            (
                raw(&one(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#), 9),
                "its header describes",
                "a byte too many",
            ),
            (
                raw(&one(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#), 7),
                "its header describes",
                "a byte too few",
            ),
            (raw("[]", 0), "bad header", "a list"),
            (raw(&"[".repeat(100_000), 0), "bad header", "as deep as it is long"),
            (
                raw(&format!("{{{}}}", many.join(",")), 400_000 - 4),
                "its header describes",
                "very many tensors, one of them cut",
            ),
            ((1u64 << 60).to_le_bytes().to_vec(), "its header claims", "a header of 2⁶⁰ bytes"),
            (u64::MAX.to_le_bytes().to_vec(), "its header claims", "a header of 2⁶⁴ bytes"),
            (b"PK\x03\x04 a zip of pickles".to_vec(), "its header claims", "a renamed .bin"),
            (b"\x80\x02}q\x00X\x01\x00".to_vec(), "its header claims", "a renamed pickle"),
            (vec![], "too short", "nothing"),
        ] {
            std::fs::write(&file, &bytes).unwrap();
            let err = Checkpoint::open(dir.path()).err().unwrap_or_else(|| panic!("{why}")).to_string();
            assert!(err.contains(want) && err.contains("model.safetensors"), "{why}: {err}");
        }
        std::fs::write(&file, raw(&format!("{{{}}}", many.join(",")), 400_000)).unwrap();
        assert_eq!(Checkpoint::open(dir.path()).unwrap().names().count(), 100_000, "very many tensors");
    }

    /// F32: every combination of dtype, shape, offsets and length of the data is taken exactly where they agree.
    #[test]
    fn a_header_is_taken_exactly_where_it_describes_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        let huge = 1_u64 << 63;
        let (mut taken, mut refused) = (0, 0);
        for (dtype, size) in [("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 0), ("I8", 0), ("f32", 0)] {
            for shape in [vec![], vec![0], vec![2], vec![1, 2], vec![3], vec![huge], vec![1 << 32, 1 << 32]] {
                for (begin, end) in
                    [(0, 0), (0, 2), (0, 4), (0, 8), (0, 12), (4, 8), (8, 0), (0, huge), (huge, 0), (huge, huge)]
                {
                    for data in [0_u8, 4, 8, 9] {
                        let header = format!(
                            r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}}}"#
                        );
                        std::fs::write(&file, raw(&header, data.into())).unwrap();
                        let bytes = shape.iter().map(|n| u128::from(*n)).product::<u128>() * size;
                        let agree = size > 0 && begin == 0 && bytes == end.into() && bytes == data.into();
                        let opened = Checkpoint::open(dir.path());
                        assert_eq!(opened.is_ok(), agree, "{header} and {data} bytes");
                        *if agree { &mut taken } else { &mut refused } += 1;
                    }
                }
            }
        }
        assert_eq!((taken, refused), (10, 1670));
    }

    #[test]
    fn shards_that_do_not_fit_their_index_are_refused() {
        let tensor =
            |name: &str| raw(&format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#), 8);
        for (index, shards, want, why) in [
            (r#"{"a": "1", "b": "2"}"#, ["a", "b"], None, "as it should be"),
            (r#"{"a": "1"}"#, ["a", "b"], None, "a shard that nothing names is not read"),
            (r#"{"a": "1", "b": "2"}"#, ["a", "a"], Some("a is also in 1"), "in two shards"),
            (r#"{"a": "2", "b": "1"}"#, ["a", "b"], Some("a is not in \"2\", where it should lie"), "exchanged"),
            (r#"{"a": "1", "b": "2", "c": "2"}"#, ["a", "b"], Some("c is not in \"2\""), "in none"),
            (r#"{"a": "1", "b": "3"}"#, ["a", "b"], Some("names 3, which is not there"), "a shard is missing"),
            (r#"{"a": "1", "b": "../2"}"#, ["a", "b"], Some("b lies in \"../2\", which is not a file name"), "above"),
            (r#"{"a": "/etc/passwd"}"#, ["a", "b"], Some("which is not a file name"), "elsewhere"),
            (r#"{"a": ".."}"#, ["a", "b"], Some("which is not a file name"), "the folder above"),
            (r#"{"a": ""}"#, ["a", "b"], Some("which is not a file name"), "nothing"),
            (r#"{"a": 1}"#, ["a", "b"], Some("a lies in 1, which is not a file name"), "a number"),
            ("[]", ["a", "b"], Some("no weight_map in it"), "no map"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for (name, shard) in ["1", "2"].iter().zip(shards) {
                std::fs::write(dir.path().join(name), tensor(shard)).unwrap();
            }
            std::fs::write(dir.path().join("model.safetensors.index.json"), format!(r#"{{"weight_map": {index}}}"#))
                .unwrap();
            let err = Checkpoint::open(dir.path()).err().map(|err| err.to_string());
            assert_eq!(err.is_some(), want.is_some(), "{why}: {err:?}");
            assert!(want.is_none_or(|want| err.as_ref().is_some_and(|err| err.contains(want))), "{why}: {err:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        assert!(Checkpoint::open(dir.path()).err().unwrap().to_string().contains("no model.safetensors"));
        write(&file, &[("a", &wave((3, 4), 0.0, &Device::Cpu).unwrap())]);
        let open = || Checkpoint::open(dir.path());
        let err = |r: Result<Tensor>| r.unwrap_err().to_string();
        assert!(err(open().unwrap().tensor("c", &[1], DType::F32, &Device::Cpu)).ends_with("tensor c is missing"));
        let wrong = err(open().unwrap().tensor("a", &[4, 3], DType::F32, &Device::Cpu));
        assert!(wrong.ends_with("tensor a has shape [3, 4], [4, 3] was expected from the config"), "{wrong}");
        let bytes = std::fs::read(&file).unwrap();
        for (cut, want) in [(4, "too short"), (20, "its header claims"), (bytes.len() - 1, "its header describes")] {
            std::fs::write(&file, &bytes[..cut]).unwrap();
            let message = open().err().unwrap().to_string();
            assert!(message.contains(want), "cut at {cut}: {message}");
        }
    }
}
