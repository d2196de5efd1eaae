//! What `cuda` offers to the outside, in a build without it: there is no card.

use super::card::{Built, CardMemory, Driver, Pool};
use crate::error::{Error, Result};
use candle_core::Device;

/// What this binary holds for cards: nothing.
pub fn built() -> Option<Built> {
    None
}

/// What the driver says: nobody can ask it.
pub fn driver(_memory: bool) -> Option<Driver> {
    None
}

/// Errors: always.
pub fn open_card(_index: usize) -> Result<Device> {
    Err(Error::run("this binary was built without CUDA"))
}

/// What is free on the card of `device`.
pub fn card_memory(_device: &Device) -> Option<CardMemory> {
    None
}

/// What this process has taken on the card of `device`.
pub fn pool(_device: &Device) -> Option<Pool> {
    None
}

/// Both peaks of [`pool`] begin anew.
pub fn forget_peak(_device: &Device) {}

/// What kernels on a card could not take.
pub fn declined() -> Vec<String> {
    vec![]
}
