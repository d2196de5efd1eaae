//! integration

mod recipes;
