//! jailmk builds minimal root filesystems and enters them as jails.
//!
//! ```text
//! spec.toml ─ parse ─▶ Spec ─ resolve ─▶ Closure ─ plan ─▶ Manifest ─ write ─▶ Rootfs
//!                                                                               │ + Spec
//!            exit status ◀─ wait ─ Child ◀─ enter ─ Plan ◀─ arm ─ Jail ◀────────┘
//! ```
//!
//! Each stage has a module and an error type of its own, and makes a value that the next one takes:
//!
//! | stage | takes | makes | may fail because |
//! |---|---|---|---|
//! | [`spec::load`] | a name | [`spec::Spec`] | the text is wrong, or others could have changed it |
//! | [`closure::resolve`] | the spec, a [`closure::root::SourceRoot`] | [`closure::Closure`] | a program or library is not there |
//! | [`manifest::Manifest::plan`] | spec and closure | [`manifest::Manifest`] | two things want one path |
//! | [`rootfs::build`] | spec and closure | [`rootfs::Rootfs`] | a file vanished, the disk is full |
//! | [`jail::Jail::prepare`] | spec and tree | [`jail::Jail`] | a layer or a mount cannot be had |
//! | [`jail::plan::Plan::arm`] | the jail | [`jail::plan::Plan`] | it cannot |
//! | [`jail::spawn::run`] | the plan | [`jail::spawn::End`] | a step fails in the kernel |
//!
//! [`exposure::Exposure`] weighs the same plan for `jailmk check SPEC`, without executing it.
//!
//! All that can fail for a human reason fails before the first process exists; what runs between clone
//! and exec is [`jail::child`], which executes the plan and does nothing else.
//!
//! # What the kernel is asked for
//!
//! Under the names that `jailmk check` has for them ([`host::check`]). The floor is Linux 5.13: there
//! are no code paths for older kernels.
//!
//! | kernel feature | since | used for | if absent |
//! |---|---|---|---|
//! | kernel | 5.13 | one code path | `enter` fails at the first call that is missing |
//! | user namespace | 3.8 | every other namespace without root | `enter` fails |
//! | id map | 3.19 | one uid and gid, setgroups denied | `enter` fails |
//! | mount namespace | 3.8 | a view built from nothing | `enter` fails |
//! | PID namespace | 3.8 | host processes out of sight and reach | `enter` fails |
//! | network namespace | 3.8 | no network but loopback | `enter` fails, unless `network.mode` is `host` |
//! | IPC namespace | 3.8 | no shared memory with the host | `enter` fails |
//! | UTS namespace | 3.8 | a host name of its own | `enter` fails |
//! | cgroup namespace | 4.6 | host cgroups out of sight | `enter` fails |
//! | time namespace | 5.6 | nothing; forbidden inside | nothing |
//! | tmpfs | 3.8 | /tmp, the home directory and their like | `enter` fails |
//! | proc | 3.8 | /proc of the jail's processes | `enter` fails |
//! | devpts | 4.7 | a terminal of its own | `enter` fails |
//! | open_tree, move_mount | 5.2 | mounts that no path can redirect | `enter` fails |
//! | mount_setattr | 5.12 | read-only, nosuid, nodev for whole trees | `enter` fails |
//! | idmapped mount | 5.12 | root's workspaces as the jail's user | `enter` fails for a writable mount of others |
//! | pivot_root | 2.4 | the host's root gone, not hidden | `enter` fails |
//! | overlay | 5.11 | workspaces in mode `review`; for root from 5.19 on, by idmapped layers | `enter` fails for `mode = "review"` |
//! | Landlock | 5.13 | files denied a second time; renames between directories 5.19, truncation 6.2, TCP 6.7, device ioctls 6.10, signals and abstract sockets 6.12, no audit lines of sandboxes inside 6.15, sockets by path 7.1 | `enter` fails, unless the spec's `degrade` or `landlock` allows it; newer rights are left out |
//! | seccomp | 3.5 | the system call filter | `enter` fails |
//! | no_new_privs | 3.5 | setuid programs without effect | `enter` fails |
//! | cgroup v2 | 4.5 | memory, swap, processors, processes, weight; `cgroup.kill` 5.14, `memory.peak` 5.19, `pids.peak` 6.1, `memory.swap.peak` 6.5 | `enter` fails if a limit is written and not in `degrade`; else rlimits and a line |
//! | clone into cgroup | 5.7 | limits from the first instruction on | as cgroup v2 |
//! | close_range | 5.11 | no descriptor of the host inside | `enter` fails |
//! | openat2 | 5.6 | source trees and workspaces whose links stay inside, a working directory behind no magic link | `build` and `enter` fail |
//! | session keyring | 2.6.10 | no keys of the host inside | nothing: such a kernel has no keys |
//! | pidfd | 5.3 | signals that cannot hit another process | `enter` fails |

pub mod caller;
pub mod cli;
pub mod closure;
pub mod date;
pub mod error;
pub mod exposure;
pub mod host;
pub mod inherited;
pub mod jail;
pub mod layer;
pub mod manifest;
pub mod path;
pub mod rootfs;
pub mod sbom;
pub mod sealed;
pub mod spec;
pub mod sys;
pub mod why;
pub mod workspace;
pub mod written;
