//! jailmk builds minimal root filesystems and enters them as jails.
//!
//! ```text
//! spec.toml ─ parse ─▶ Spec ─ resolve ─▶ Closure ─ plan ─▶ Manifest ─ write ─▶ Rootfs
//!                                                                               │ + Spec
//!            exit status ◀─ wait ─ Child ◀─ enter ─ Plan ◀─ arm ─ Jail ◀────────┘
//! ```

pub mod closure;
pub mod error;
pub mod path;
pub mod spec;
