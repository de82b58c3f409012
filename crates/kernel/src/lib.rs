//! The default Guest.
//!
//! This room will hold a tiny kernel with a shell, built on `lguest-guest` and embedded in the Launcher, so that
//! `lguest run` with no argument starts something one can read in an evening. Issue "2 of 5" fills it.
#![no_std]
