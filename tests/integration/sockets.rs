//! No socket is opened unless a name asks for it: the kernel kills whoever does.
//!
//! The program runs under a filter of system calls that ends the process at the first `socket` (or `io_uring_setup`, which could
//! open one without being seen). A run with a name for its base is the control: it must be killed. Addresses and proxies of the
//! environment lead to somebody who writes down who calls, so that the test says something where there is no such filter.

use crate::support::{Workspace, copy_dir, root};
use std::{
    net::TcpListener,
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts who calls.
struct Listener {
    address: String,
    calls: Arc<AtomicUsize>,
}

impl Listener {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        std::thread::spawn(move || listener.incoming().for_each(|_| _ = counted.fetch_add(1, Ordering::SeqCst)));
        Self { address, calls }
    }
}

/// The program in `work`, with a filter if `filtered`; every address that it could ask leads to `listener`.
fn run(work: &Workspace, listener: &Listener, args: &[&str], filtered: bool) -> (ExitStatus, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_couplet-train"));
    for name in ["HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env(name, &listener.address);
    }
    for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "NO_PROXY", "no_proxy", "USE_MODELSCOPE_HUB"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", work.path("hf")).env("HF_TOKEN", "hf_token").args(args).current_dir(work.dir());
    if filtered {
        filter::install(&mut command);
    }
    let output = command.stdin(std::process::Stdio::null()).output().expect("the binary runs");
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The shipped quick start, cut short.
fn quick_start() -> Workspace {
    let work = Workspace::new();
    copy_dir(&root().join("data"), &work.path("data"));
    copy_dir(&root().join("configs"), &work.path("configs"));
    work
}

const SHORT: [&str; 5] =
    ["--config", "configs/tiny_couplets.toml", "max_steps=2", "max_samples=64", "output_dir=outputs/tiny"];

#[test]
fn the_quick_start_and_all_that_follows_opens_none() {
    let (work, listener) = (quick_start(), Listener::start());
    let adapter = ["--adapter", "outputs/tiny"];
    let runs: [&[&str]; 7] = [
        &SHORT,
        &SHORT, // already complete
        &[&["generate", "春风又绿江南岸", "max_new_tokens=4"][..], &adapter].concat(),
        &[
            &["evaluate", "dataset=couplets_test", "max_samples=4", "max_new_tokens=4", "output_dir=scores"][..],
            &adapter,
        ]
        .concat(),
        &[&["export", "export_dir=merged"][..], &adapter].concat(),
        &["adapter", "check", "outputs/tiny"],
        &["doctor"],
    ];
    for args in runs {
        let (status, stderr) = run(&work, &listener, args, filter::THERE);
        assert!(status.success(), "{args:?}: {status}: {stderr}");
    }
    let (status, stderr) =
        run(&work, &listener, &["--config", "configs/tiny_couplets.toml", "model_name_or_path=./none"], filter::THERE);
    assert_eq!(status.code(), Some(2), "a path that is wrong is no name: {status}: {stderr}");
    assert_eq!(listener.calls.load(Ordering::SeqCst), 0);
}

#[test]
fn a_name_opens_one_which_shows_that_the_test_above_can_fail() {
    let (work, listener) = (quick_start(), Listener::start());
    let named: Vec<&str> = [&SHORT[..], &["model_name_or_path=org/tiny"]].concat();
    let (status, stderr) = run(&work, &listener, &named, false);
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(listener.calls.load(Ordering::SeqCst) > 0, "{stderr}");
    if filter::THERE {
        let (status, stderr) = run(&work, &listener, &named, true);
        assert!(filter::was_killed(status), "{status}: {stderr}");
    }
}

/// A filter of system calls, where the system has one.
#[cfg(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod filter {
    use libc::{
        BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP,
        SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SIGSYS, SYS_io_uring_setup, SYS_socket,
        sock_filter, sock_fprog,
    };
    use std::{
        io,
        os::unix::process::{CommandExt, ExitStatusExt},
        process::{Command, ExitStatus},
    };

    pub const THERE: bool = true;

    /// Load the number of the call; kill for two of them.
    const PROGRAM: [sock_filter; 5] = [
        instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, SYS_socket as u32),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_io_uring_setup as u32),
        instruction(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW),
        instruction(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS),
    ];

    const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
        sock_filter { code: code as u16, jt, jf, k }
    }

    pub fn install(command: &mut Command) {
        let apply = || {
            let program = sock_fprog { len: PROGRAM.len() as u16, filter: PROGRAM.as_ptr().cast_mut() };
            // SAFETY: two system calls that allocate nothing, between fork and exec; the kernel copies the program.
            let done = unsafe {
                libc::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                    && libc::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) == 0
            };
            if done { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: `apply` only makes the calls above.
        unsafe { command.pre_exec(apply) };
    }

    pub fn was_killed(status: ExitStatus) -> bool {
        status.signal() == Some(SIGSYS)
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod filter {
    use std::process::{Command, ExitStatus};

    pub const THERE: bool = false;

    pub fn install(_: &mut Command) {}

    pub fn was_killed(_: ExitStatus) -> bool {
        false
    }
}
