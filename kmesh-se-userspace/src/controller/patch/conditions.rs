//! A change of `status.conditions` that leaves those of others where they are.
//!
//! In: all conditions as they are, and ours as they should be. Out: tests and changes of single items. Never: an item of another
//! type in a test or a change.
//!
//! Others may change theirs meanwhile; only if the list is another one, so that an item of ours is at another place, the tests fail.

use serde_json::{Value, json};

use super::{Part, is};
use crate::{
    controller::conditions::{number, place},
    model::Condition,
};

const PATH: &str = "/status/conditions";

/// Has the list hold `wanted`, and no other condition of our types but what is to be `kept` as it is.
pub(super) fn change(had: &[Condition], wanted: &[Value], kept: &[&str]) -> Part {
    if had.is_empty() {
        let change = json!({"op": "add", "path": PATH, "value": wanted});
        return Part { tests: vec![is(PATH, Value::Null)], changes: vec![change] };
    }
    let kind = |condition: &Value| condition["type"].as_str().unwrap_or_default().to_owned();
    let item = |index: usize| format!("{PATH}/{index}");
    let place = |kind: &str| place(kind).filter(|_| !kept.contains(&kind));
    let is_ours = |kind: &str| place(kind).is_some();
    let mut touched = Vec::new();
    let (mut replaced, mut removed, mut missing) = (Vec::new(), Vec::new(), wanted.to_vec());
    for (index, old) in had.iter().enumerate().filter(|(_, old)| is_ours(&old.type_)) {
        match missing.iter().position(|wanted| kind(wanted) == old.type_) {
            Some(at) => {
                let wanted = missing.remove(at);
                if !is_same(old, &wanted) {
                    touched.push(index);
                    replaced.push(json!({"op": "replace", "path": item(index), "value": wanted}));
                }
            }
            None => {
                touched.push(index);
                removed.push(index);
            }
        }
    }
    let mut changes = replaced;
    // From the end, so that those before keep their places.
    changes.extend(removed.iter().rev().map(|index| json!({"op": "remove", "path": item(*index)})));
    // What is there then: the type of each, and where it was if it was.
    let left = had.iter().enumerate().filter(|(index, _)| !removed.contains(index));
    let mut left: Vec<_> = left.map(|(index, old)| (old.type_.clone(), Some(index))).collect();
    for new in missing {
        let kind = kind(&new);
        let before =
            left.iter().rposition(|(other, _)| place(other).is_some_and(|at| Some(at) < place(&kind)));
        let after = left.iter().position(|(other, _)| place(other).is_some());
        let (at, anchor) = match (before, after) {
            (Some(before), _) => (Some(before + 1), Some(before)),
            (None, Some(after)) => (Some(after), Some(after)),
            (None, None) => (None, None),
        };
        touched.extend(anchor.and_then(|anchor| left[anchor].1));
        let path = at.map_or_else(|| format!("{PATH}/-"), item);
        left.insert(at.unwrap_or(left.len()), (kind, None));
        changes.push(json!({"op": "add", "path": path, "value": new}));
    }
    touched.sort_unstable();
    touched.dedup();
    let test = |index: usize| is(&format!("{}/type", item(index)), json!(had[index].type_));
    Part { tests: touched.into_iter().map(test).collect(), changes }
}

fn is_same(old: &Condition, wanted: &Value) -> bool {
    let texts = [
        ("status", &old.status),
        ("reason", &old.reason),
        ("message", &old.message),
        ("lastTransitionTime", &old.last_transition_time),
    ];
    let observed = number(&old.observed_generation);
    texts.iter().all(|(field, old)| wanted[*field] == old.as_str())
        && observed.is_none_or(|observed| Some(observed) == number(&wanted["observedGeneration"]))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

    use super::*;
    use crate::controller::conditions::OWN;

    fn condition(kind: &str, message: u8) -> Value {
        json!({"type": kind, "status": "True", "reason": "R", "message": message.to_string(),
               "lastTransitionTime": "t", "observedGeneration": 1})
    }

    fn read(list: &[Value]) -> Vec<Condition> {
        list.iter().map(|item| serde_json::from_value(item.clone()).expect("a condition")).collect()
    }

    /// Applies the change as the API server would; none if a test fails.
    fn applied(had: &[Value], seen: &[Value], wanted: &[Value]) -> Option<Vec<Value>> {
        let Part { tests, changes } = change(&read(seen), wanted, &[]);
        let mut object = json!({"status": {"conditions": had}});
        let tests = tests.into_iter().filter(|test| !(test["value"].is_null() && had.is_empty()));
        let patch = super::super::patch(tests.chain(changes).collect());
        json_patch::patch(&mut object, &patch).ok()?;
        Some(object["status"]["conditions"].as_array()?.clone())
    }

    fn split(list: &[Value]) -> (Vec<Value>, Vec<Value>) {
        list.iter().cloned().partition(|item| place(item["type"].as_str().unwrap_or_default()).is_some())
    }

    #[test]
    fn others_stay_as_they_are_and_ours_become_what_they_should_be() {
        let mut random = SmallRng::seed_from_u64(7);
        for _ in 0..2_000 {
            let some = |random: &mut SmallRng| -> Vec<Value> {
                let own = OWN.iter().filter(|_| random.random_bool(0.4));
                own.copied()
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|k| condition(k, random.random_range(0..2)))
                    .collect()
            };
            let mut had = some(&mut random);
            // Somebody may have made a second one of a type, or put them in another order.
            let twice: Vec<_> = had.iter().filter(|_| random.random_bool(0.1)).cloned().collect();
            had.extend(twice);
            let others = random.random_range(0..3);
            had.extend((0..others).map(|i| condition(&format!("istio.io/Other{i}"), 9)));
            had.shuffle(&mut random);
            let wanted = some(&mut random);
            let now = applied(&had, &had, &wanted).expect("all tests hold");
            let ((mut own, others), (_, before)) = (split(&now), split(&had));
            assert_eq!(others, before);
            own.sort_by_key(|item| place(item["type"].as_str().unwrap_or_default()));
            assert_eq!(own, wanted, "{had:?}");
            // Others that change theirs meanwhile are not in the way, and keep what they wrote.
            let mut changed = had.clone();
            for item in
                changed.iter_mut().filter(|item| place(item["type"].as_str().unwrap_or_default()).is_none())
            {
                item["message"] = json!("new");
            }
            if !had.is_empty() {
                let now = applied(&changed, &had, &wanted).expect("all tests hold");
                assert_eq!(split(&now).1, split(&changed).1);
            }
            // What is as it should be needs no change.
            assert!(change(&read(&now), &wanted, &[]).changes.is_empty() || now.is_empty());
        }
    }

    #[test]
    fn what_is_new_comes_where_people_look_for_it() {
        let had = [condition("Accepted", 0), condition("Warned", 0), condition("example.com/Reviewed", 0)];
        let wanted = [condition("Accepted", 0), condition("Shadowed", 0), condition("Warned", 0)];
        let now = applied(&had, &had, &wanted).expect("all tests hold");
        let kinds: Vec<_> = now.iter().filter_map(|item| item["type"].as_str()).collect();
        assert_eq!(kinds, ["Accepted", "Shadowed", "Warned", "example.com/Reviewed"]);
    }

    #[test]
    fn a_list_that_is_another_by_now_is_left_alone() {
        let seen = [condition("example.com/Reviewed", 0), condition("Accepted", 0)];
        let wanted = [condition("Accepted", 1)];
        let now = [condition("Accepted", 0), condition("example.com/Reviewed", 0)];
        assert_eq!(applied(&now, &seen, &wanted), None);
        assert_eq!(applied(&seen[..1], &seen, &wanted), None);
    }
}
