//! Shares, as a driver drives them: messages in, answers out, a real directory below.

mod driver;
mod attacks;
mod everyday;
mod ownership;
