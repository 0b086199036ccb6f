// SPDX-License-Identifier: Apache-2.0

//! Weighted turns among classes (stride scheduling).
//!
//! A lottery with the same weights would need less state, but a class of low weight could lose many
//! draws in a row; here each class gets its turns evenly spread over a round.

/// Shares out turns among classes in proportion to their weights.
#[derive(Debug)]
pub(super) struct WeightedTurns {
    /// How far a turn moves each class: the greater its weight, the less.
    strides: Vec<u32>,
    /// Where each class is; the one furthest behind has the next turn.
    passes: Vec<u32>,
}

impl WeightedTurns {
    /// Starts with classes of these weights, none of which is 0.
    pub(super) fn new(weights: &[u32]) -> Self {
        // Any common multiple of the weights would do.
        let product: u32 = weights.iter().product();
        let strides = weights.iter().map(|weight| product / weight).collect();
        Self { strides, passes: vec![0; weights.len()] }
    }

    /// Shares out a number of turns among the classes that are asked, of which there is at least one.
    ///
    /// The turn of a class that is not asked goes to the next class, and still counts as a turn of
    /// the first: a class that was empty for long gains no claim, and a class that had the queue to
    /// itself has no debt.
    pub(super) fn share(&mut self, turns: usize, asked: &[bool]) -> Vec<usize> {
        let mut shares = vec![0; self.passes.len()];
        let mut order: Vec<usize> = (0..self.passes.len()).collect();
        for _ in 0..turns {
            order.sort_by_key(|class| (self.passes[*class], *class));
            if let Some(class) = order.iter().find(|class| asked[**class]) {
                shares[*class] += 1;
            }
            let first = order[0];
            self.passes[first] += self.strides[first];
            let least = self.passes.iter().copied().min().unwrap_or_default();
            for pass in &mut self.passes {
                *pass -= least;
            }
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: [u32; 3] = [16, 4, 1];
    /// The turns of one round.
    const ROUND: usize = 21;
    const ALL: [bool; 3] = [true; 3];

    #[test]
    fn a_round_of_turns_has_the_weights_of_the_classes() {
        let mut turns = WeightedTurns::new(&WEIGHTS);
        let mut first = [0; 3];
        for _ in 0..ROUND * 10 {
            let share = turns.share(1, &ALL);
            let class = share.iter().position(|turns| *turns == 1).expect("somebody's turn");
            first[class] += 1;
        }
        assert_eq!(first, [160, 40, 10]);
    }

    #[test]
    fn many_turns_at_once_are_shared_as_one_by_one() {
        let mut turns = WeightedTurns::new(&WEIGHTS);
        let mut shared = [0; 3];
        for room in [1, 5, 2, 13, 21, 8, 21, 13] {
            let shares = turns.share(room, &ALL);
            assert_eq!(shares.iter().sum::<usize>(), room);
            shared = [0, 1, 2].map(|class| shared[class] + shares[class]);
        }
        // Four rounds of 21.
        assert_eq!(shared, [64, 16, 4]);
    }

    #[test]
    fn what_empty_classes_leave_goes_to_the_others_and_is_not_held_against_them() {
        let mut turns = WeightedTurns::new(&WEIGHTS);
        assert_eq!(turns.share(8, &[false, true, false]), [0, 8, 0]);
        assert_eq!(turns.share(ROUND * 10 - 8, &[false, false, true]), [0, 0, ROUND * 10 - 8]);
        assert_eq!(turns.share(ROUND, &ALL), WEIGHTS.map(|weight| weight as usize));
    }

    #[test]
    fn there_may_be_any_number_of_classes() {
        assert_eq!(WeightedTurns::new(&[1]).share(5, &[true]), [5]);
        assert_eq!(WeightedTurns::new(&[3, 2]).share(10, &[true; 2]), [6, 4]);
        let mut four = WeightedTurns::new(&[8, 4, 2, 1]);
        assert_eq!(four.share(15, &[true; 4]), [8, 4, 2, 1]);
    }
}
