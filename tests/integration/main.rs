//! integration

mod dataset;
