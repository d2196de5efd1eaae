//! `couplet-train data prepare`: raw pairs → Alpaca JSON.

use super::quoted;
use crate::args::PrepareArgs;
use couplet_train::{
    dataset,
    error::{Error, Result},
    report::{Lang, Look},
};

/// Raw pairs → Alpaca JSON and its entry in `dataset_info.json`. Prints what to do with them.
#[expect(clippy::print_stdout, reason = "the command's result")]
pub fn prepare(args: &PrepareArgs, look: Look) -> Result<()> {
    if args.output.starts_with("~") {
        return Err(Error::file(&args.output, "begins with `~`, which only a shell replaces")
            .hint("write the whole path, or leave out the `=`: --output ~/data")
            .hint_zh("请写完整路径，或去掉等号：--output ~/data"));
    }
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            let stem = args.input.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            stem.ok_or_else(|| Error::file(&args.input, "has no file name; give the data set one with --name"))?
        }
    };
    let done = dataset::prepare(&args.input, &args.output, &name, &args.instruction, args.overwrite)?;
    let (rows, file, registry) = (done.rows, done.file.display(), done.registry.display());
    println!(
        "{}",
        match look.lang {
            Lang::En => format!("{rows} rows → {file}, registered as `{name}` in {registry}"),
            Lang::Zh => format!("{rows} 行 → {file}，已在 {registry} 中登记为 `{name}`"),
        }
    );
    // The recipe's own held-out set lies elsewhere; a tenth of the new rows stands in for it, where that is a row.
    let held_out = if rows >= 20 { "eval_dataset= val_size=0.1" } else { "eval_dataset= eval_strategy=no" };
    println!(
        "couplet-train --config configs/tiny_couplets.toml dataset={name} {} {held_out} output_dir=outputs/{name}",
        quoted(&format!("dataset_dir={}", args.output.display()))
    );
    Ok(())
}
