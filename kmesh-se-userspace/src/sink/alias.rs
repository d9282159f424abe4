//! Vose's alias method: a table in which one random number picks by exact weight.
//!
//! In: weights. Out: columns of equal width, each shared by at most two of them. Never: a column for a weight of 0.

/// One column: below `threshold` (a fraction of 2^32) it is `own`, else `alias`; both index the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) own: usize,
    pub(super) alias: usize,
    pub(super) threshold: u32,
}

/// The columns for `weights`, as many as there are weights.
pub(super) fn table(weights: &[u32]) -> Vec<Column> {
    // Exact in integers: each column has room for `total`, each weight brings weight * count.
    let count = weights.len() as u128;
    let total: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    let mut left: Vec<u128> = weights.iter().map(|w| u128::from(*w) * count).collect();
    let mut columns: Vec<Column> =
        (0..weights.len()).map(|own| Column { own, alias: own, threshold: u32::MAX }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|i| left[*i] < total);
    while let (Some(less), Some(more)) = (small.pop(), large.pop()) {
        let threshold = (left[less] << 32) / total.max(1);
        columns[less] =
            Column { own: less, alias: more, threshold: u32::try_from(threshold).unwrap_or(u32::MAX) };
        left[more] -= total - left[less];
        if left[more] < total { small.push(more) } else { large.push(more) }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_weight_gets_its_exact_share(weights in prop::collection::vec(1u32..1_000_000, 1..200)) {
            let mut share = vec![0f64; weights.len()];
            for column in table(&weights) {
                let own = if column.alias == column.own { 1.0 } else { f64::from(column.threshold) / 4294967296.0 };
                share[column.own] += own;
                share[column.alias] += 1.0 - own;
            }
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (share, weight) in share.iter().zip(&weights) {
                let wanted = f64::from(*weight) / total * weights.len() as f64;
                prop_assert!((share - wanted).abs() < 1e-6 * weights.len() as f64, "{share} != {wanted}");
            }
        }
    }

    #[test]
    fn equal_weights_need_no_alias() {
        assert!(table(&[5, 5, 5]).iter().all(|c| c.own == c.alias && c.threshold == u32::MAX));
    }
}
