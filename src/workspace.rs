//! A workspace under review: what the jail wrote is kept beside it, looked at, and brought over or dropped.
//!
//! ```text
//! STATE/review/SPEC-WORKSPACE/
//!     about            which spec and which host directory this is; `emptied` when all was dropped
//!     lock             flocked by the jail that runs, or by who applies and discards
//!     running          when a jail began whose changes are not in the journal yet
//!     journal          how each changed path was on the host before, see journal.rs
//!     base/            text files of the host as the jail saw them, see base.rs
//!     pending          the one path whose replacement on the host is under way
//!     layers/upper     what the jail wrote, as overlayfs keeps it
//!     layers/work      overlayfs's own
//!     trash            on its way out
//!     scratch          the temporary directory of a commit that is being made
//! ```
//!
//! Two trees are read here, and neither is trusted: `upper` was written by the jail, and the host's may hold
//! what an earlier jail left there, or change while we look. Both are opened by descriptor, beneath their top
//! and through no symlink; no path in them is longer than the kernel takes in one call.
//!
//! What makes a change a conflict: the host's file is not the one that the journal has, or its ctime is
//! not older than the beginning of the jail that changed the path first. The command in a jail starts only
//! when the clock that stamps files has moved on, so the comparison misses nothing.

pub mod apply;
mod base;
pub mod changes;
pub mod clash;
pub mod commit;
mod content;
pub mod direct;
pub mod error;
pub(crate) mod extent;
pub mod git_config;
pub mod journal;
pub mod merge;
pub mod patch;
pub mod path;
pub mod pending;
mod place;
pub mod policy;
pub mod protected;
pub mod renames;
mod reserve;
pub mod session;
pub mod sessions;
pub mod threeway;
pub mod tree;
pub mod upper;

pub use changes::{Change, Changes, Kind};
pub use error::ReviewError;
pub use path::WorkPath;
pub use session::Session;
