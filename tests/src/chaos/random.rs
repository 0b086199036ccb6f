// SPDX-License-Identifier: Apache-2.0

//! A small random number generator that never changes.
//!
//! A seed that once found a fault must draw the same plan years later, so the numbers do not come
//! from a crate whose next version may draw different ones. The algorithm is splitmix64 (Steele,
//! Lea and Flood, "Fast splittable pseudorandom number generators", 2014).

/// Draws numbers from a seed.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Starts a generator of its own for one of several parts, such as one of the clients.
    #[must_use]
    pub fn of_part(seed: u64, part: u64) -> Self {
        let mut root = Self::new(seed ^ part.wrapping_mul(0xd134_2543_de82_ef95));
        Self::new(root.draw())
    }

    /// Draws any number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws a number below a bound.
    ///
    /// # Panics
    ///
    /// When the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        let product = u128::from(self.draw()) * u128::from(bound);
        u64::try_from(product >> 64).expect("the upper half has 64 bits")
    }

    /// Draws a number from the first to the last, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// Draws whether something happens that happens so often in a hundred times.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Draws an index of something with so many places.
    pub fn index(&mut self, length: usize) -> usize {
        let drawn = self.below(u64::try_from(length).expect("a length fits"));
        usize::try_from(drawn).expect("it is below a length")
    }

    /// Draws one of some things.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn pick<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.index(things.len())]
    }

    /// Brings things into a drawn order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_never_change() {
        let mut random = Random::new(0);
        let drawn: Vec<u64> = (0..3).map(|_| random.draw()).collect();
        assert_eq!(drawn, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
        let mut random = Random::new(1_234_567);
        assert_eq!(random.draw(), 6_457_827_717_110_365_317);
        let mut random = Random::new(42);
        let drawn: Vec<u64> = (0..8).map(|_| random.between(1, 6)).collect();
        assert_eq!(drawn, [5, 1, 2, 3, 1, 6, 2, 5]);
        let mut letters = ['a', 'b', 'c', 'd', 'e'];
        random.shuffle(&mut letters);
        assert_eq!(
            (letters.iter().collect::<String>(), Random::of_part(1, 2).draw()),
            ("edacb".to_owned(), 16_007_044_390_419_820_741)
        );
    }

    #[test]
    fn bounds_are_kept_and_reached() {
        let mut random = Random::new(7);
        let mut seen = [0u32; 5];
        for _ in 0..1000 {
            seen[random.index(5)] += 1;
        }
        assert!(seen.iter().all(|count| *count > 150), "{seen:?}");
        assert!(!random.percent(0) && random.percent(100));
    }
}
