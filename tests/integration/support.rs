//! What the integration tests share: fixtures, temporary copies, runs of the real binary, tensors as numbers.

use candle_core::{DType, Device, Tensor};
use couplet_train::{
    config::{DataConfig, LoraConfig, Projection},
    dataset::{self, Example, Tokenizer},
    model::{Checkpoint, Params, Qwen3, Qwen3Config, params::Slot},
    rng::Key,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The root of the repository.
pub fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The folder of the committed fixtures.
pub fn fixtures() -> PathBuf {
    root().join("tests/fixtures")
}

/// Copies a folder and everything below it.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a temporary folder");
    for entry in std::fs::read_dir(from).expect("a fixture folder") {
        let entry = entry.expect("a readable entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a file type").is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a copied file")),
        }
    }
}

/// The elements of a float tensor in f64.
pub fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).expect("a float tensor")
}

/// LoRA of rank 4 on everything, α 6.
pub fn on_everything() -> LoraConfig {
    LoraConfig {
        lora_rank: 4,
        lora_alpha: 6.0,
        lora_dropout: 0.0,
        lora_target: Projection::ALL.to_vec(),
        use_dora: false,
        use_rslora: false,
        pissa: Default::default(),
    }
}

/// The shipped model with an adapter whose B is not zero and whose magnitudes are not those of its rows, and the first `rows`
/// shipped rows.
pub fn shipped((dtype, device): (DType, &Device), lora: &LoraConfig, rows: usize) -> (Qwen3, Params, Vec<Example>) {
    let dir = root().join("data/tiny_qwen3");
    let config = Qwen3Config::load(&dir).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let (model, layout) = Qwen3::load(&config, &checkpoint, lora, dtype, device).unwrap();
    let draw = |slot: &Slot, size: f32| -> Vec<f32> {
        let key = Key::new(7, &slot.name);
        (0..(slot.shape.0 * slot.shape.1) as u64).map(|i| (key.uniform(i) - 0.5) * size).collect()
    };
    let mut params = Params::new(layout, dtype, device, |slot| Ok(draw(slot, 0.1))).unwrap();
    if lora.use_dora {
        params.begin_magnitudes().unwrap();
        let longer = |slot: &Slot| draw(slot, if slot.is_magnitude() { 0.4 } else { 0.0 });
        let factors: Vec<f32> = params.slots().flat_map(|(_, slot)| longer(slot)).map(|x| 1.0 + x).collect();
        let factors = Tensor::from_vec(factors, params.len(), device).unwrap();
        params.set((params.flat() * factors).unwrap()).unwrap();
    }
    let data = DataConfig {
        dataset: vec!["couplets_train".into()],
        dataset_dir: root().join("data"),
        cutoff_len: 128,
        max_samples: Some(rows),
        ..couplet_train::testing::data_config()
    };
    let rows = dataset::load(&data, 42, &Tokenizer::load(&dir).unwrap()).unwrap().train;
    (model, params, rows)
}

/// ‖a − b‖ / ‖scale‖, all in f64.
pub fn relative_distance(a: &[f64], b: &[f64], scale: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut scale.iter().copied())
}

/// ‖got − want‖ / ‖want − start‖ over all tensors of three adapter files: how far a run is off, in units of what it changed.
pub fn adapter_distance(got: &Path, want: &Path, start: &Path) -> f64 {
    let [got, want, start] = [got, want, start].map(adapter_values);
    let names = |adapter: &BTreeMap<String, Vec<f64>>| adapter.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&got), names(&want), "tensor names");
    let flat = |adapter: BTreeMap<String, Vec<f64>>| adapter.into_values().flatten().collect::<Vec<f64>>();
    let [got, want, start] = [got, want, start].map(flat);
    let update: Vec<f64> = want.iter().zip(&start).map(|(w, s)| w - s).collect();
    relative_distance(&got, &want, &update)
}

fn adapter_values(dir: &Path) -> BTreeMap<String, Vec<f64>> {
    let file = dir.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu).expect("an adapter");
    tensors.into_iter().map(|(name, tensor)| (name, values(&tensor))).collect()
}

/// |got − want| ≤ bound · |want|; a wanted 0 must be 0.
#[track_caller]
pub fn assert_near(got: &Value, want: &Value, bound: f64, what: &str) -> f64 {
    let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("{what}: {v} is not a number"));
    let (got, want) = (number(got), number(want));
    let off = if want == 0.0 { got.abs() } else { ((got - want) / want).abs() };
    assert!(off <= bound, "{what}: {got} instead of {want}, off by {off:.1e}");
    off
}

/// A temporary folder, and the binary run in it.
pub struct Workspace(tempfile::TempDir);

/// What a process left.
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Workspace {
    /// An empty folder.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A copy of a fixture folder with the tokenizer all small fixtures share.
    pub fn of_fixture(name: &str) -> Self {
        let workspace = Self::new();
        copy_dir(&fixtures().join(name), workspace.dir());
        copy_dir(&fixtures().join("parity/tokenizer"), &workspace.path("model"));
        workspace
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Writes a file, and the folders above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a written file");
    }

    /// The text of a file.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
    }

    /// A JSON file.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
    }

    /// Runs the binary in the folder, with English messages and no network.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, &[])
    }

    /// The same with environment variables.
    pub fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Ended {
        self.execute(args, env, Stdio::null())
    }

    /// [`Self::run`] with a text on its standard input.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Ended {
        self.write(".stdin", input);
        let file = std::fs::File::open(self.path(".stdin")).expect("the input");
        self.run_from(args, file.into())
    }

    /// [`Self::run`] with a standard input.
    pub fn run_from(&self, args: &[&str], input: Stdio) -> Ended {
        self.execute(args, &[], input)
    }

    /// A run that gets SIGINT while it reads `pipe`, which holds it up; then the pipe gives `rest` and ends.
    #[cfg(unix)]
    pub fn interrupted(&self, args: &[&str], pipe: &str, rest: &str) -> Ended {
        use std::{io::Write, os::unix::fs::OpenOptionsExt, time::Instant};
        children_answer(2);
        let path = self.path(pipe);
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        let mut command = self.command(args, &[]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the binary runs");
        // Without waiting it can only be opened once somebody reads.
        let open = || {
            let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            std::fs::OpenOptions::new().write(true).custom_flags(flags).open(&path)
        };
        let began = Instant::now();
        let mut writer = loop {
            match open() {
                Ok(writer) => break writer,
                Err(_) if child.try_wait().expect("a child").is_none() && began.elapsed().as_secs() < 60 => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Err(err) => panic!("{args:?} does not read {pipe}: {err}"),
            }
        };
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
        assert!(killed.success());
        // Who leaves at once does so; who waits for a place to stop needs the rest.
        let began = Instant::now();
        while child.try_wait().expect("a child").is_none() && began.elapsed().as_millis() < 500 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let _ = writer.write_all(rest.as_bytes()); // nobody reads it who has left
        drop(writer);
        ended(args, child.wait_with_output().expect("an end"))
    }

    fn execute(&self, args: &[&str], env: &[(&str, &str)], stdin: Stdio) -> Ended {
        let output = self.command(args, env).stdin(stdin).output().expect("the binary runs");
        ended(args, output)
    }

    fn command(&self, args: &[&str], env: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_couplet-train"));
        for name in ["COUPLET_TRAIN_LANG", "LC_ALL", "LC_MESSAGES", "LANG", "NO_COLOR", "RUST_BACKTRACE", "COLUMNS"] {
            command.env_remove(name);
        }
        for name in ["HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("hf")).envs(env.iter().copied());
        command.args(args).current_dir(self.dir());
        command
    }

    /// A run that must succeed; training never prints to stdout.
    pub fn train(&self, args: &[&str]) -> Ended {
        self.train_with(args, &[])
    }

    /// The same with environment variables.
    pub fn train_with(&self, args: &[&str], env: &[(&str, &str)]) -> Ended {
        let ended = self.run_with(args, env);
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{args:?}");
        ended
    }
}

fn ended(args: &[&str], output: Output) -> Ended {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let code = output.status.code().unwrap_or_else(|| panic!("{args:?}: {}", output.status));
    let ended = Ended { code, stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!ended.stderr.contains("panicked"), "{args:?}: {}", ended.stderr);
    ended
}

/// Makes children of this process answer a signal as programs in the foreground do. What a process ignores (in the
/// background of a script, say) its children ignore too, as they should; what it handles they do not.
#[cfg(unix)]
pub fn children_answer(signal: i32) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    if ignored.unwrap_or(0) >> (signal - 1) & 1 == 1 {
        signal_hook::flag::register(signal, std::sync::Arc::default()).expect("a signal to handle");
    }
}
