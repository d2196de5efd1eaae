//! F07, F08, F10 once more with a real kernel: a small disk, a disk with few files, a folder mounted read-only. Each lives in
//! a mount namespace of its own; where a user may have none, nothing is done and the table says so.

use crate::{
    disk,
    pool::{Check, Outcome, each, ensure},
    run::Work,
    suite::Suite,
};
use std::process::{Command, Stdio};

/// The program on a small disk at `out`; then the same on a larger one. What is there then survives the namespace in `kept`.
const ON_A_SMALL_DISK: &str = "
mount -t tmpfs -o $LIMIT small out || exit 99
\"$@\" 2> said; echo $? > first
mount -o remount,size=64m,nr_inodes=9999 out || exit 99
\"$@\" 2> said.again; echo $? > second
cp -a out/. kept/
";

const ON_A_READ_ONLY_ONE: &str = "mount --bind out out && mount -o remount,bind,ro out || exit 99; exec \"$@\" 2> said";

/// Disks of so many bytes.
pub fn small_disks(suite: &Suite) -> Outcome {
    // A checkpoint takes about 60 KiB, all that a run leaves about 400.
    let sizes = suite.thin((0..=112).map(|i| 4 * (i + 1)), 4);
    real(|| {
        each(&sizes, |size| format!("a disk of {size} KiB"), |size| on_a_small_disk(suite, &format!("size={size}k")))
    })
}

/// Disks of so many files.
pub fn few_files(suite: &Suite) -> Outcome {
    let numbers = suite.thin(2..40, 3);
    real(|| {
        each(
            &numbers,
            |n| format!("a disk of {n} files"),
            |n| on_a_small_disk(suite, &format!("size=64m,nr_inodes={n}")),
        )
    })
}

/// Refused before anything is loaded, and the folder is named.
pub fn read_only(suite: &Suite) -> Outcome {
    real(|| {
        let work = Work::new(suite);
        let code = in_a_namespace(&work, ON_A_READ_ONLY_ONE, "");
        let said = std::fs::read_to_string(work.path("said")).unwrap_or_default();
        let refused = code == Some(2) && said.contains("out") && said.contains("read-only");
        Outcome::one("a folder mounted read-only", ensure(refused, || format!("{code:?}, {said}")))
    })
}

fn real(check: impl FnOnce() -> Outcome) -> Outcome {
    let here = Command::new("unshare").args(["-Urm", "true"]).stderr(Stdio::null()).status();
    match here.is_ok_and(|status| status.success()) {
        true => check(),
        false => Outcome::default().note("no real mounts: this user may not".into()),
    }
}

fn on_a_small_disk(suite: &Suite, limit: &str) -> Check {
    let work = Work::new(suite);
    std::fs::create_dir(work.path("kept")).map_err(|err| err.to_string())?;
    let code = in_a_namespace(&work, ON_A_SMALL_DISK, limit);
    let read = |name: &str| std::fs::read_to_string(work.path(name)).unwrap_or_default();
    ensure(code == Some(0), || format!("the script: {code:?}"))?;
    let (first, second) = (read("first"), read("second"));
    ensure(matches!(first.trim(), "0" | "1" | "2"), || format!("{first}: {}", read("said")))?;
    ensure(first.trim() == "0" || read("said").contains("error: "), || format!("{first}: {}", read("said")))?;
    ensure(second.trim() == "0", || format!("with room again: {second}: {}", read("said.again")))?;
    std::fs::remove_dir(work.out())
        .and_then(|()| std::fs::rename(work.path("kept"), work.out()))
        .map_err(|err| err.to_string())?;
    if first.trim() == "0" && !disk::checkpoint(&work.out(), crate::suite::STEPS).exists() {
        return work.is_golden_but_for_the_last_checkpoint(&read("said"));
    }
    work.is_golden()
}

fn in_a_namespace(work: &Work, script: &str, limit: &str) -> Option<i32> {
    std::fs::create_dir(work.out()).expect("a folder");
    let (program, _) = work.command("", "", &[]);
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, "sh"]).arg(program.get_program()).args(program.get_args());
    command.current_dir(work.path(".")).env("LIMIT", limit).stderr(Stdio::null());
    program.get_envs().for_each(|(name, value)| match value {
        Some(value) => drop(command.env(name, value)),
        None => drop(command.env_remove(name)),
    });
    command.status().expect("unshare").code()
}
