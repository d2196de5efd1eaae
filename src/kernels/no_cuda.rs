//! What `cuda` offers to the outside, in a build without it: there is no card.

use super::{
    attention::Segments,
    card::{Built, CardMemory, Driver, Pool},
};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};

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

/// Recorded work of a card: there is none.
pub enum Graph {}

impl Graph {
    /// Errors: always.
    pub fn record(_device: &Device, _work: impl FnOnce() -> Result<()>) -> Result<Self> {
        Err(Error::run("this binary was built without CUDA"))
    }

    /// Queues all of it.
    pub fn launch(&self) -> Result<()> {
        match *self {}
    }
}

/// Does `work`, before it is recorded.
pub fn remembered<T>(_device: &Device, work: impl FnOnce() -> Result<T>) -> Result<T> {
    work()
}

/// Who sees whom, in the memory of a card: there is none.
pub enum AttentionLists {}

impl AttentionLists {
    /// Errors: always.
    pub fn new(_segments: &Segments, _groups: usize, _device: &Device) -> Result<Self> {
        Err(Error::run("this binary was built without CUDA"))
    }

    /// What launches are made of besides these.
    pub fn counts(&self) -> [usize; 2] {
        match *self {}
    }

    /// The lists.
    pub fn tensors(&self) -> &[Tensor] {
        match *self {}
    }

    /// Attention no longer takes these for their segments.
    pub fn claim(&self) {
        match *self {}
    }
}
