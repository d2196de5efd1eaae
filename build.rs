//! Compiles the kernels of `src/kernels/cuda`: with nvcc under the feature `cuda`, with a C++ compiler, to be run and checked
//! on the CPU, under `cuda-host`. Without these features there is nothing to do.

/// Code for A100 and its kin (8.x), and for H100 and H200; PTX for whatever comes after. Also what the binary says of itself.
const CODE: [&str; 3] = ["sm_80", "sm_90", "compute_80"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for file in std::fs::read_dir("src/kernels/cuda").into_iter().flatten().flatten() {
        if file.path().extension().is_some_and(|e| e == "cu" || e == "cuh") {
            println!("cargo::rerun-if-changed={}", file.path().display());
        }
    }
    println!("cargo::rerun-if-changed=src/kernels/cuda/host");
    println!("cargo::rustc-env=COUPLET_TRAIN_CUDA_CODE={}", CODE.join(" "));
    #[cfg(feature = "cuda")]
    device::compile();
    #[cfg(feature = "cuda-host")]
    host();
}

#[cfg(feature = "cuda")]
mod device {
    use std::{
        env, fs,
        path::{Path, PathBuf},
        process::Command,
    };

    const NEEDED: &str = "The feature `cuda` needs the CUDA toolkit, 13.0; CUDA_HOME or NVCC says where it is";

    /// One `<name>.fatbin` in `OUT_DIR` for every `.cu` file. `.ci/check_kernels` has the same flags.
    pub fn compile() {
        for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"] {
            println!("cargo::rerun-if-env-changed={name}");
        }
        let (nvcc, out) = (nvcc(), PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to")));
        println!("cargo::rustc-env=COUPLET_TRAIN_CUDA={}", release(&nvcc));
        let files = fs::read_dir("src/kernels/cuda").expect("the folder of the kernels");
        let files = files.map(|file| file.expect("a file of it").path());
        for source in files.filter(|path| path.extension().is_some_and(|e| e == "cu")) {
            one(&nvcc, &source, &out);
        }
    }

    fn nvcc() -> PathBuf {
        let home = || env::var_os("CUDA_HOME").or_else(|| env::var_os("CUDA_PATH"));
        let in_home = || home().map(|home| Path::new(&home).join("bin/nvcc")).filter(|nvcc| nvcc.exists());
        let usual = || Some(PathBuf::from("/usr/local/cuda/bin/nvcc")).filter(|nvcc| nvcc.exists());
        let found = env::var_os("NVCC").map(PathBuf::from).or_else(in_home);
        let in_path = || Command::new("nvcc").arg("--version").output().is_ok().then(|| PathBuf::from("nvcc"));
        found.or_else(in_path).or_else(usual).unwrap_or_else(|| "nvcc".into())
    }

    /// `13.0` of `Cuda compilation tools, release 13.0, V13.0.88`: how new a driver has to be.
    fn release(nvcc: &Path) -> String {
        let said = Command::new(nvcc)
            .arg("--version")
            .output()
            .unwrap_or_else(|why| panic!("{}: {why}. {NEEDED}", nvcc.display()));
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let release = said.split("release ").nth(1).and_then(|rest| rest.split(',').next());
        release.unwrap_or_else(|| panic!("{} --version names no release: {said}", nvcc.display())).to_owned()
    }

    fn one(nvcc: &Path, source: &Path, out: &Path) {
        let mut command = Command::new(nvcc);
        // Without -fmad=false nvcc would join products and sums, and the host harness would prove other sums than these.
        command.args(["-std=c++17", "-O3", "-fmad=false", "-fatbin"]);
        for code in super::CODE {
            command.arg("-gencode").arg(format!("arch={},code={code}", code.replace("sm_", "compute_")));
        }
        let name = source.file_stem().expect("a file's name");
        command.arg("-o").arg(out.join(name).with_extension("fatbin")).arg(source);
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{command:?}: {status}"),
            Err(why) => panic!("{}: {why}. {NEEDED}", nvcc.display()),
        }
    }
}

/// `libcuda_host.a`: the harness with every kernel in it.
#[cfg(feature = "cuda-host")]
fn host() {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        // As nvcc's -fmad=false: a product and a sum are one operation only where a kernel says fmaf.
        .flag("-ffp-contract=off")
        // Vectors of elements are read from and written to arrays of elements.
        .flag("-fno-strict-aliasing")
        // GCC 12 for aarch64 breaks down vectorising the cross entropy, and fibers gain nothing by it.
        .flag("-fno-tree-vectorize")
        .file("src/kernels/cuda/host/kernels.cpp")
        .compile("cuda_host");
}
