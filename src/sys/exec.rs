//! Argument vectors for execve(2), laid out before the fork.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use nix::errno::Errno;

/// Strings with the NULL-terminated array of pointers to them that execve(2) wants.
pub struct Vector {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Vector {
    /// Takes the strings in order.
    pub fn new(strings: Vec<CString>) -> Vector {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Vector { strings, pointers }
    }

    /// The strings in order.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// Replaces this process; returns only the reason why it could not. Allocates nothing.
pub fn replace_process(path: &CStr, arguments: &Vector, environment: &Vector) -> Errno {
    // SAFETY: both arrays end in NULL and point to NUL-terminated strings that `Vector` owns, whose
    // heap blocks do not move when the vector does.
    unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    Errno::last()
}
