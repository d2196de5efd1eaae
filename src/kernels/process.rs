//! How a process computes best: decided once, at its start.

/// Keeps freed memory in the process, for the next step: every step needs buffers of the same sizes.
///
/// glibc hands each freed buffer of more than 128 KiB (later up to 32 MiB) back to the kernel, and takes new pages, which
/// the kernel fills with zeros, for the next one. The transient copies of loading, where larger, still go back. Other
/// allocators are left as they are.
pub fn keep_freed_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two numbers that the allocator looks at when it grows or shrinks; whatever they are, memory stays valid.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Gives freed buffers back all the same: before work whose buffers have other sizes, which would not fit into these but come
/// to lie beside them.
pub fn return_freed_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes this thread, the one that trains, a member of the pool that its parallel operations run in.
///
/// Outside the pool, each operation would wake a worker and wait for it, and the many small buffers of a step would come
/// from whichever worker that was. Other threads use rayon's global pool, so nothing here ever waits for this thread.
pub fn join_pool() {
    // As many threads as rayon's global pool. Where none can be started, that one serves.
    if let Ok(pool) = rayon::ThreadPoolBuilder::new().use_current_thread().build() {
        // Its threads live as long as the process; dropping the pool would end them.
        std::mem::forget(pool);
    }
}
