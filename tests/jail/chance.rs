//! Numbers that look random.

/// xorshift64.
pub struct Chance(u64);

impl Chance {
    /// Others in each run.
    pub fn new() -> Chance {
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        Chance(now.expect("a time after 1970").as_nanos() as u64 | 1)
    }

    /// The same in each run.
    pub fn seeded(seed: u64) -> Chance {
        Chance(seed)
    }

    /// The next, less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// The same for places in a list.
    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("no more than `end`")
    }
}
