//! Faults on demand, for the suite in `tests/faults`. Exists only under the feature `fault-injection`, which no release has;
//! otherwise every function here is empty and costs nothing.
//!
//! `COUPLET_TRAIN_FAULT` holds directives with commas between them; calls are counted from 1 over the whole process:
//!
//! ```text
//! kill:N             the process dies of SIGKILL in place of call N
//! error:EIO:N        call N fails with this error (EIO, EINTR, EDQUOT, ENOSPC, EROFS, EFBIG); `N+`: it and every later one;
//!                    EROFS spares what only reads
//! full:BYTES         the disk takes so many bytes in all: what fits of a write is written, the rest is ENOSPC
//! inodes:N           the disk takes so many new files and folders in all, then ENOSPC
//! trace:FILE         every call that was not killed, and what was announced, becomes a JSON line in FILE; the bytes of
//!                    writes go to FILE.bytes
//! steps:FILE         every optimizer step that was really executed becomes a line in FILE
//! nan_loss:STEP      the loss of this step is not a number; `nan_grad:STEP`: one element of its gradient
//! no_thread:STEP     the thread that would save this step cannot be started
//! pause:PHASE:K:FILE the K-th time this phase is reached, FILE is made, and nothing goes on before it is gone (or a minute is)
//! ```
//!
//! `COUPLET_TRAIN_MUTANT` names one mistake to make ([`mutant`]), so that the suite can prove that it would see it.

use std::{io, path::Path};

/// A call on the file system.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "fault-injection"), allow(dead_code, reason = "only the fault suite reads the fields"))]
pub(super) enum Call<'a> {
    /// An empty file where there may have been another.
    Create(&'a Path),
    /// A file whose old content stays, created if need be.
    Open(&'a Path),
    /// Bytes at the end of a file.
    Write(&'a Path, &'a [u8]),
    /// A file cut to so many bytes.
    Truncate(&'a Path, u64),
    /// A file's bytes are on the disk.
    SyncFile(&'a Path),
    /// A folder's names are on the disk.
    SyncDir(&'a Path),
    /// The first path becomes the second.
    Rename(&'a Path, &'a Path),
    RemoveFile(&'a Path),
    RemoveDir(&'a Path),
    CreateDir(&'a Path),
    Read(&'a Path),
}

#[cfg(feature = "fault-injection")]
mod on;

#[cfg(not(feature = "fault-injection"))]
pub(super) use off::{after, before, parts};
#[cfg(not(feature = "fault-injection"))]
pub use off::{announce, at_step, executed, phase};
#[cfg(feature = "fault-injection")]
pub(super) use on::{after, before, parts};
#[cfg(feature = "fault-injection")]
pub use on::{announce, at_step, executed, phase};

/// Whether the mistake of this name is to be made. Always false without the feature.
pub fn mutant(name: &str) -> bool {
    cfg!(feature = "fault-injection") && std::env::var_os("COUPLET_TRAIN_MUTANT").is_some_and(|wanted| wanted == name)
}

/// `step`; under the mutant of this name, counted from where this process began.
pub fn counted(name: &str, step: usize, began: usize) -> usize {
    if mutant(name) { step - began } else { step }
}

#[cfg(not(feature = "fault-injection"))]
mod off {
    use super::*;

    /// Stands before every call.
    #[inline]
    pub fn before(_: &Call<'_>) -> io::Result<u64> {
        Ok(0)
    }

    /// Stands behind every call.
    #[inline]
    pub fn after(_: u64, _: &Call<'_>, _: bool) {}

    /// The pieces in which bytes are written: one.
    #[inline]
    pub fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        std::iter::once(bytes)
    }

    /// A part of the run in which a signal may be wanted.
    #[inline]
    pub fn phase(_: &str) {}

    /// An optimizer step is done.
    #[inline]
    pub fn executed(_: usize) {}

    /// The user is about to be told that something is on the disk.
    #[inline]
    pub fn announce(_: &str, _: usize) {}

    /// Whether this fault is wanted at this step.
    #[inline]
    pub fn at_step(_: &str, _: usize) -> bool {
        false
    }
}
