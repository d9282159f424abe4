//! A sorted map that holds few entries most of the time.
//!
//! In: keys and values. Out: the same, in order. Never: room for more than there is while they are few: a node of a `BTreeMap` has
//! room for eleven, and each host has several maps.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, btree_map},
    fmt,
    iter::{Chain, Flatten, Map},
    mem,
    ops::Index,
    option, slice, vec,
};

/// Above it, moving entries aside costs more than a tree.
const FEW: usize = 16;

/// A map that iterates in the order of its keys.
#[derive(Clone)]
pub struct Few<K, V>(Store<K, V>);

#[derive(Clone)]
enum Store<K, V> {
    /// Sorted by key, without a key twice.
    Few(Vec<(K, V)>),
    /// It has been more than [`FEW`] once.
    Many(BTreeMap<K, V>),
}

/// The entries of a [`Few`], in order.
type Iter<'a, K, V> = Chain<
    Map<slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>,
    Flatten<option::IntoIter<&'a BTreeMap<K, V>>>,
>;

impl<K: Ord, V> Few<K, V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Store::Few(list) => list.len(),
            Store::Many(map) => map.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of `key`.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match &self.0 {
            Store::Few(list) => place(list, key).ok().map(|at| &list[at].1),
            Store::Many(map) => map.get(key),
        }
    }

    /// The same, to change it.
    #[must_use]
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match &mut self.0 {
            Store::Few(list) => place(list, key).ok().map(|at| &mut list[at].1),
            Store::Many(map) => map.get_mut(key),
        }
    }

    /// Whether `key` has a value.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Gives `key` a value; the one that it had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match &mut self.0 {
            Store::Many(map) => map.insert(key, value),
            Store::Few(list) => match place(list, &key) {
                Ok(at) => Some(mem::replace(&mut list[at].1, value)),
                Err(_) if list.len() >= FEW => {
                    let mut map: BTreeMap<_, _> = mem::take(list).into_iter().collect();
                    map.insert(key, value);
                    self.0 = Store::Many(map);
                    None
                }
                Err(at) => {
                    list.reserve_exact(1);
                    list.insert(at, (key, value));
                    None
                }
            },
        }
    }

    /// Takes `key` away, and answers its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match &mut self.0 {
            Store::Few(list) => place(list, key).ok().map(|at| list.remove(at).1),
            Store::Many(map) => map.remove(key),
        }
    }

    /// Takes away what `keeps` does not.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &mut V) -> bool) {
        match &mut self.0 {
            Store::Few(list) => list.retain_mut(|(key, value)| keeps(key, value)),
            Store::Many(map) => map.retain(keeps),
        }
    }

    /// All entries, in order.
    pub fn iter(&self) -> Iter<'_, K, V> {
        let (list, map) = match &self.0 {
            Store::Few(list) => (list.as_slice(), None),
            Store::Many(map) => (&[][..], Some(map)),
        };
        let parts: fn(&(K, V)) -> (&K, &V) = |(key, value)| (key, value);
        list.iter().map(parts).chain(map.into_iter().flatten())
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The same, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let (list, map) = match &mut self.0 {
            Store::Few(list) => (list.as_mut_slice(), None),
            Store::Many(map) => (&mut [][..], Some(map)),
        };
        list.iter_mut().map(|(_, value)| value).chain(map.into_iter().flat_map(BTreeMap::values_mut))
    }

    /// The keys alone, in order.
    pub fn into_keys(self) -> impl Iterator<Item = K> {
        self.into_iter().map(|(key, _)| key)
    }
}

fn place<K: Borrow<Q>, V, Q: Ord + ?Sized>(list: &[(K, V)], key: &Q) -> Result<usize, usize> {
    list.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(Store::Few(Vec::new()))
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Few<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Ord, V: Eq> Eq for Few<K, V> {}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Few<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V> Index<&K> for Few<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the key has a value")
    }
}

impl<K: Ord, V> Extend<(K, V)> for Few<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Few<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut few = Self::default();
        few.extend(entries);
        few
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for Few<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a Few<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Ord, V> IntoIterator for Few<K, V> {
    type Item = (K, V);
    type IntoIter = Chain<vec::IntoIter<(K, V)>, btree_map::IntoIter<K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        let (list, map) = match self.0 {
            Store::Few(list) => (list, BTreeMap::new()),
            Store::Many(map) => (Vec::new(), map),
        };
        list.into_iter().chain(map)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever happens to it, it is what a `BTreeMap` would be.
        #[test]
        fn it_is_like_a_btree_map(steps in prop::collection::vec((any::<bool>(), 0_u8..40, any::<u8>()), 0..200)) {
            let (mut few, mut map) = (Few::default(), BTreeMap::new());
            for (is_insert, key, value) in steps {
                if is_insert {
                    prop_assert_eq!(few.insert(key, value), map.insert(key, value));
                } else {
                    prop_assert_eq!(few.remove(&key), map.remove(&key));
                }
                prop_assert_eq!((few.len(), few.get(&key), few.is_empty()), (map.len(), map.get(&key), map.is_empty()));
                prop_assert!(few.iter().eq(map.iter()));
                prop_assert_eq!(&few, &map.iter().map(|(key, value)| (*key, *value)).collect());
            }
            few.retain(|key, _| key % 2 == 0);
            map.retain(|key, _| key % 2 == 0);
            prop_assert!(few.into_iter().eq(map));
        }
    }
}
