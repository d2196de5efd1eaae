//! Compiles the kernels of `src/kernels/cuda`: with nvcc under the feature `cuda`, with a C++ compiler, to be run and checked
//! on the CPU, under `cuda-host`. Without these features there is nothing to do.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/kernels/cuda");
    #[cfg(feature = "cuda-host")]
    host();
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
        .file("src/kernels/cuda/host/kernels.cpp")
        .compile("cuda_host");
}
