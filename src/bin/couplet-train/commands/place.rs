//! The output directory before a run: whose it is, what of it the run goes on from, and what has to go.

use super::restore;
use couplet_train::{
    config::Recipe,
    error::{Error, Result},
    fs::{self, Lock},
    report::{Console, Header},
    run::{self, May, Start, megabytes},
    trainer::{
        checkpoint::{self, Restored},
        saver::Space,
    },
};
use std::path::{Path, PathBuf};

/// An output directory that is ours.
pub struct Place {
    pub lock: Lock,
    pub found: Found,
}

/// What lies in an output directory, and what a run makes of it.
pub struct Found {
    start: Start,
    /// The checkpoint to go on from, until the trainer takes it.
    pub restored: Option<Restored>,
    /// What that is: its folder and step.
    goes_on: Option<(PathBuf, usize)>,
    /// What is removed before the run begins.
    doomed: Vec<PathBuf>,
    /// Why a run would not begin, where this is for a plan.
    taken: Option<Error>,
}

impl Place {
    /// `None`: the run that the recipe asks for is complete.
    ///
    /// Errors: the directory is in use, holds something else, or no checkpoint of an unfinished run can be continued.
    pub fn take(recipe: &Recipe, console: &mut Console) -> Result<Option<Self>> {
        let out = &recipe.output.output_dir;
        if run::inspect(recipe)? == Start::AlreadyComplete {
            return Ok(None);
        }
        // A second run into the same folder leaves at once. Until the lock was ours, another may have ended there.
        let lock = Lock::acquire(out)?;
        let start = run::inspect(recipe)?;
        if start == Start::AlreadyComplete {
            return Ok(None);
        }
        fs::remove_leftovers(out, lock.is_held())?;
        Ok(Some(Self { lock, found: Found::of(recipe, start, console)? }))
    }
}

impl Found {
    /// For a plan: nothing is written, and the directory stays anybody's. `None`, errors: as [`Place::take`], but for what only
    /// writing shows, and for another run's results, beside which there is a plan all the same.
    pub fn look(recipe: &Recipe, console: &mut Console) -> Result<Option<Self>> {
        match run::look(recipe)? {
            May::Start(Start::AlreadyComplete) => Ok(None),
            May::Start(start) => Self::of(recipe, start, console).map(Some),
            May::Not(err) => {
                let (start, taken) = (Start::Fresh, Some(err));
                Ok(Some(Self { start, restored: None, goes_on: None, doomed: vec![], taken }))
            }
        }
    }

    fn of(recipe: &Recipe, start: Start, console: &mut Console) -> Result<Self> {
        let restored = restore::find(recipe, &start, console)?;
        let doomed = restore::doomed(recipe, &start, restored.as_ref())?;
        for adapter in &recipe.model.adapter_name_or_path {
            run::refuse_doomed(adapter, &doomed)?;
        }
        let goes_on = restored.as_ref().map(|restored| (restored.path.clone(), restored.state.step));
        Ok(Self { start, restored, goes_on, doomed, taken: None })
    }

    /// The step of the checkpoint that the run goes on from.
    pub fn begins_after(&self) -> Option<usize> {
        self.goes_on.as_ref().map(|(_, step)| *step)
    }

    /// Free bytes where they are fewer than the run will take. Errors: they are too few for anything.
    pub fn short_of_room(&self, out: &Path, space: Space) -> Result<Option<u64>> {
        let there = run::bytes_of(&run::results(out, None)?);
        run::refuse_full_disk(out, space, run::bytes_of(&self.doomed), there)
    }

    /// Removes what has to go.
    pub fn clear(&self) -> Result<()> {
        run::clear(&self.doomed)
    }

    /// What the user should know of it.
    pub fn notices(&self, out: &Path, short_of_room: Option<(u64, Space)>, header: &mut Header) {
        if let Some(err) = &self.taken {
            let hint = |chinese| err.hint_text(chinese).unwrap_or_default();
            header.notice(
                format!("training would refuse: {err}\n  {}", hint(false)),
                format!("训练会拒绝开始：{err}\n  {}", hint(true)),
            );
        }
        if let Some((free, space)) = short_of_room {
            let (free, most) = (megabytes(free), megabytes(space.most));
            header.notice(
                format!("{free} are free, but the checkpoints will take {most}: set `save_total_limit`, or make room"),
                format!("磁盘仅剩 {free}，而检查点将占用 {most}：请设置 `save_total_limit` 或腾出空间"),
            );
        }
        if let Some((path, step)) = &self.goes_on {
            let path = path.display();
            header
                .notice(format!("goes on after step {step}, from {path}"), format!("从 {path} 继续，已完成 {step} 步"));
        } else if self.start == Start::Unfinished {
            header.notice(
                "the run that began here left no checkpoint; it starts again from step 0",
                "此处先前的训练没有留下检查点，将从第 0 步重新开始",
            );
        }
        let checkpoints = self.doomed.iter().filter(|path| checkpoint::step_of(path).is_some()).count();
        let out = out.display();
        if self.start == Start::Replace {
            header.notice(
                format!("the earlier run in {out} will be replaced: its results and checkpoints ({checkpoints}) go"),
                format!("{out} 中先前的训练将被覆盖：删除其结果与 {checkpoints} 个检查点"),
            );
        } else if checkpoints > 0 {
            header.notice(
                format!("checkpoints of later steps in {out} will be removed: {checkpoints}"),
                format!("将删除 {out} 中步数更大的 {checkpoints} 个检查点"),
            );
        }
    }
}
