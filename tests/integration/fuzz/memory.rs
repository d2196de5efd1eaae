//! What a thread allocates, counted: a file of a few bytes must not make the program ask for gigabytes.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// Requests above this are refused while a thread counts, which ends the process: better than a machine that swaps.
const MOST: usize = 4 << 30;

thread_local! {
    /// Bytes held, the most held, and whether this thread counts.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator with a meter. Every thread counts for itself, and only between [`peak_of`]'s begin and end.
struct Metered;

#[global_allocator]
static METERED: Metered = Metered;

/// Runs `act`, and returns with its result the most bytes that it held at one time on this thread.
pub fn peak_of<T>(act: impl FnOnce() -> T) -> (T, usize) {
    HELD.set(0);
    PEAK.set(0);
    COUNTS.set(true);
    let result = act();
    COUNTS.set(false);
    (result, PEAK.get().max(0) as usize)
}

fn count(bytes: isize) {
    if COUNTS.get() {
        let held = HELD.get() + bytes;
        HELD.set(held);
        PEAK.set(PEAK.get().max(held));
    }
}

fn is_too_much(bytes: usize) -> bool {
    bytes > MOST && COUNTS.get()
}

// SAFETY: every call goes to the system's allocator as it is, or is refused with a null pointer; the meter allocates nothing,
// and its cells are plain numbers that need no destructor.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_too_much(layout.size()) {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_too_much(layout.size()) {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        if is_too_much(new) {
            return std::ptr::null_mut();
        }
        count(new as isize - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, new) }
    }
}

#[test]
fn the_meter_sees_the_most_that_was_held() {
    let (_, peak) = peak_of(|| drop((vec![1u8; 1000], vec![0u8; 500])));
    assert!((1500..2000).contains(&peak), "{peak}");
    let (kept, peak) = peak_of(|| {
        drop(vec![1u8; 10_000]);
        vec![1u8; 100]
    });
    assert!(kept.len() == 100 && (10_000..10_500).contains(&peak), "{peak}");
}
