//! What the errands and the tests of this crate share: the journey, which both walk, and how an errand fails.

pub mod errand;
pub mod journey;
