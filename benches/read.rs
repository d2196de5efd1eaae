//! Reading data files, without tokenising: `cargo bench --bench read -- --rows 770000 --format json` prints one JSON line.
//!
//! Formats: `json`, `jsonl`, `csv`, `sharegpt`. The rows are made up: the shipped instruction and two lines of seven characters.

#[path = "common.rs"]
mod common;

use common::{cpu_name, load_average, option, peak_rss_gib, round};
use couplet_train::{
    config::OnBadRow,
    dataset::{
        files::{DataFile, FileFormat},
        prepare::DEFAULT_INSTRUCTION,
        record::{How, read},
        shape::{Formatting, Shape, Tags},
    },
};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    time::Instant,
};

#[expect(clippy::print_stdout, reason = "the result")]
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let rows: usize = option(&args, "--rows").map_or(770_000, |rows| rows.parse().expect("a number"));
    let name = option(&args, "--format").cloned().unwrap_or("json".into());
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(format!("rows.{name}"));
    write(&path, &name, rows).expect("a file");
    let bytes = path.metadata().expect("a file").len();
    let formatting = if name == "sharegpt" { Formatting::Sharegpt } else { Formatting::Alpaca };
    let shape = Shape::new(formatting, None, Tags::default());
    let format = if name == "csv" { FileFormat::Csv } else { FileFormat::Json };
    let (before, began) = (peak_rss_gib(), Instant::now());
    let file = DataFile { path, format, gzip: false };
    let parsed = read(&[file], How { shape: &shape, limit: None, on_bad_row: OnBadRow::Error }).expect("rows");
    let seconds = began.elapsed().as_secs_f64();
    let report = serde_json::json!({
        "format": name, "rows": parsed.rows.len(), "mb": bytes / 1_000_000, "s": round(seconds),
        "mb_s": (bytes as f64 / 1e6 / seconds).round(), "peak_rss_gib_before": before, "peak_rss_gib": peak_rss_gib(),
        "cpu": cpu_name(), "load1": load_average(),
    });
    println!("{report}");
}

fn write(path: &Path, format: &str, rows: usize) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    match format {
        "json" => writeln!(out, "[")?,
        "csv" => writeln!(out, "instruction,input,output")?,
        _ => {}
    }
    let line = |seed: usize| -> String {
        let character = |i: usize| char::from_u32(0x4e00 + ((seed * 31 + i * 1009) % 0x5000) as u32).unwrap_or('一');
        (0..7).map(character).collect()
    };
    for n in 0..rows {
        let (first, second) = (line(n), line(n + 7919));
        match format {
            "csv" => writeln!(out, "{DEFAULT_INSTRUCTION},{first},{second}")?,
            "sharegpt" => writeln!(
                out,
                "{{\"conversations\": [{{\"from\": \"human\", \"value\": \"{DEFAULT_INSTRUCTION}\\n{first}\"}}, {{\"from\": \"gpt\", \"value\": \"{second}\"}}]}}"
            )?,
            _ => {
                let end = if format == "json" && n + 1 < rows { "," } else { "" };
                writeln!(
                    out,
                    "{{\"instruction\": \"{DEFAULT_INSTRUCTION}\", \"input\": \"{first}\", \"output\": \"{second}\"}}{end}"
                )?;
            }
        }
    }
    if format == "json" {
        writeln!(out, "]")?;
    }
    out.flush()
}
