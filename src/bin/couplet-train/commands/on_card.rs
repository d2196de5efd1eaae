//! The memory of the card that a run trains on: measured part by part, and told where it does not suffice.

use candle_core::Device;
use couplet_train::{
    error::{Error, gigabytes},
    kernels::{self, card::Pool},
    plan::{self, Held},
    report::Lang,
};
use serde_json::{Value, json};
use std::{cell::Cell, path::Path};

/// Bytes of tensors on a card, as they come. On the CPU there is nothing to measure.
pub struct OnCard<'a> {
    device: &'a Device,
    /// Before the weights, behind them, and behind what is trained.
    marks: Vec<u64>,
    /// At the end of training: what is read back then is no part of the plan.
    trained: Cell<Option<Pool>>,
}

impl<'a> OnCard<'a> {
    /// Nothing is loaded yet.
    pub fn new(device: &'a Device) -> Self {
        let mut on_card = Self { device, marks: vec![], trained: Cell::new(None) };
        on_card.mark();
        on_card
    }

    /// A part is there. The peak counts from here on.
    pub fn mark(&mut self) {
        self.marks.extend(kernels::pool(self.device).map(|pool| pool.used));
        kernels::forget_peak(self.device);
    }

    /// The last step is done. The peak counts up to here.
    pub fn trained(&self) {
        self.trained.set(kernels::pool(self.device));
    }

    /// Bytes of tensors at the most, from before the weights to the end of training.
    pub fn peak(&self) -> Option<u64> {
        Some(self.trained.get()?.peak.saturating_sub(*self.marks.first()?))
    }

    /// For the receipt.
    pub fn measured(&self) -> Value {
        let (Some(pool), [before, weights, trainable]) = (self.trained.get(), &self.marks[..]) else {
            return Value::Null;
        };
        json!({
            "weights": weights.saturating_sub(*before),
            "trainable": trainable.saturating_sub(*weights),
            "peak_bytes": pool.peak.saturating_sub(*before),
            "peak_reserved_bytes": pool.peak_reserved,
        })
    }

    /// One line of it.
    pub fn line(&self, planned: u64, lang: Lang) -> Option<String> {
        let pool = self.trained.get()?;
        let (peak, reserved, planned) = (gigabytes(pool.peak), gigabytes(pool.peak_reserved), gigabytes(planned));
        Some(match lang {
            Lang::En => format!("on the card: {peak} in tensors at the most (planned {planned}), {reserved} taken"),
            Lang::Zh => format!("显存：张量峰值 {peak}（预计 {planned}），共占用 {reserved}"),
        })
    }

    /// What was free when the card's memory was used up, and what the run can go on from; any other error as it is.
    pub fn explain(&self, err: Error, checkpoint: Option<&Path>) -> Error {
        if err.out_of_memory().is_none() {
            return err;
        }
        let ours = kernels::pool(self.device).map_or(0, |pool| pool.reserved);
        let held = kernels::card_memory(self.device).map(|card| Held { free: card.free, total: card.total, ours });
        plan::with_facts(err, held, checkpoint)
    }
}
