//! The schedule against tables of outcomes, with a clock that the tests turn.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// One name in a schedule, and the time.
struct Bench {
    schedule: Schedule,
    now: Instant,
    /// What the last update said.
    said: Option<Addresses>,
}

impl Bench {
    fn new() -> Self {
        Self::with(ResolveConfig::new(Vec::new()))
    }

    fn with(config: ResolveConfig) -> Self {
        let mut bench = Self { schedule: Schedule::new(config), now: Instant::now(), said: None };
        assert!(bench.schedule.want(bench.now, name(), None));
        bench
    }

    /// Turns the clock to the family's next query and answers it; the time it had to wait, and the update if it says other
    /// addresses.
    fn next(&mut self, family: Family, outcome: Outcome) -> (Duration, Option<Update>) {
        let state = &self.schedule.names[&name()];
        let due = match family {
            Family::V4 => state.v4.due,
            Family::V6 => state.v6.due,
        };
        let due = due.expect("the family waits for its time");
        let waited = due.saturating_duration_since(self.now);
        self.now += waited;
        // The other family stays overdue: what it waits for is not this test's matter.
        let asks = self.schedule.start_due(self.now, usize::MAX);
        let mut update = None;
        for ask in asks {
            if ask.family == family {
                update = self.schedule.finish(self.now, &ask, clone(&outcome), 0.0);
            } else {
                let state = self.schedule.names.get_mut(&ask.name).expect("the name is wanted");
                state.family_mut(ask.family).due = Some(self.now);
                self.schedule.queue.insert((self.now, ask.name, ask.family));
            }
        }
        let update = update.filter(|update| {
            let before = self.said.replace(update.addresses.clone());
            before != self.said
        });
        (waited, update.map(|update| Update { is_complete: true, has_failed: false, ..update }))
    }

    fn v4(&mut self, outcome: Outcome) -> (Duration, Option<Update>) {
        self.next(Family::V4, outcome)
    }

    fn v6(&mut self, outcome: Outcome) -> (Duration, Option<Update>) {
        self.next(Family::V6, outcome)
    }

    fn status(&self) -> NameStatus {
        self.schedule.status(self.now).remove(0)
    }
}

fn clone(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Records { addresses, ttl } => Outcome::Records { addresses: addresses.clone(), ttl: *ttl },
        Outcome::Nothing { exists, ttl } => Outcome::Nothing { exists: *exists, ttl: *ttl },
        Outcome::Failed(_) => failed(),
    }
}

fn name() -> HostName {
    HostName::new("a.test")
}

fn records(addresses: &[&str], ttl_secs: u64) -> Outcome {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    Outcome::Records { addresses, ttl: Duration::from_secs(ttl_secs) }
}

fn nothing() -> Outcome {
    Outcome::Nothing { exists: false, ttl: None }
}

fn failed() -> Outcome {
    Outcome::Failed(LookupError::NoServer)
}

fn update(addresses: &[&str]) -> Option<Update> {
    let mut all = Addresses::default();
    for address in addresses {
        match address.parse().expect("an address") {
            IpAddr::V4(address) => all.v4.push(address),
            IpAddr::V6(address) => all.v6.push(address),
        }
    }
    Some(Update { name: name(), addresses: all, is_complete: true, has_failed: false })
}

#[test]
fn asks_both_families_at_once_and_each_once() {
    let mut bench = Bench::new();
    assert!(!bench.schedule.want(bench.now, name(), None), "wanted twice");
    let asks = bench.schedule.start_due(bench.now, usize::MAX);
    let families: Vec<_> = asks.iter().map(|ask| ask.family).collect();
    assert_eq!(families, [Family::V4, Family::V6]);
    assert!(bench.schedule.start_due(bench.now, usize::MAX).is_empty(), "both are under way");
    assert_eq!(bench.schedule.next_due(), None);
}

#[test]
fn starts_no_more_than_the_limit() {
    let mut bench = Bench::new();
    assert_eq!(bench.schedule.start_due(bench.now, 1).len(), 1);
    assert_eq!(bench.schedule.start_due(bench.now, 5).len(), 1);
}

#[test]
fn refreshes_at_the_ttl_within_its_bounds() {
    for (ttl_secs, expected) in [(0, 1), (1, 1), (30, 30), (300, 300), (86_400, 300)] {
        let mut bench = Bench::new();
        bench.v4(records(&["192.0.2.1"], ttl_secs));
        let (waited, _) = bench.v4(records(&["192.0.2.1"], ttl_secs));
        assert_eq!(waited, Duration::from_secs(expected), "ttl {ttl_secs}");
    }
}

#[test]
fn says_an_address_at_once_and_none_only_when_both_families_answered() {
    let mut bench = Bench::new();
    assert_eq!(bench.v4(records(&["192.0.2.1"], 5)).1, update(&["192.0.2.1"]));
    assert_eq!(bench.v6(records(&["2001:db8::1"], 5)).1, update(&["192.0.2.1", "2001:db8::1"]));

    let mut bench = Bench::new();
    assert_eq!(bench.v6(nothing()).1, None);
    assert_eq!(bench.v4(failed()).1, update(&[]));
    assert_eq!(bench.v4(failed()).1, None, "said already");
}

#[test]
fn says_only_changes_of_addresses_or_order() {
    let mut bench = Bench::new();
    bench.v4(records(&["192.0.2.1", "192.0.2.2"], 5));
    assert_eq!(bench.v4(records(&["192.0.2.1", "192.0.2.2"], 5)).1, None);
    assert_eq!(
        bench.v4(records(&["192.0.2.2", "192.0.2.1"], 5)).1,
        update(&["192.0.2.2", "192.0.2.1"]),
        "the first address of the newest answer matters to DNS_ROUND_ROBIN"
    );
}

#[test]
fn keeps_the_last_addresses_when_dns_fails_and_backs_off() {
    let mut bench = Bench::new();
    bench.v4(records(&["192.0.2.1"], 5));
    let waits: Vec<_> = (0..9).map(|_| bench.v4(failed())).collect();
    assert!(waits.iter().all(|(_, update)| update.is_none()));
    // With no jitter a wait is half of what it may be.
    let millis: Vec<_> = waits.iter().map(|(wait, _)| wait.as_millis()).collect();
    assert_eq!(millis, [5000, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
    let status = bench.status();
    assert!(status.stale);
    assert_eq!(status.addresses.v4.len(), 1);
    assert_eq!(status.age_secs, Some(65));
    assert!(status.last_error.is_some_and(|error| error.contains("no DNS server")));
    bench.v4(records(&["192.0.2.1"], 5));
    assert!(!bench.status().stale);
    assert_eq!(bench.v4(failed()).0, 5 * SECOND, "the ttl counts again");
}

#[test]
fn drops_addresses_that_stayed_stale_too_long() {
    let mut config = ResolveConfig::new(Vec::new());
    config.stale_for = 20 * SECOND;
    let mut bench = Bench::with(config);
    bench.v6(nothing());
    bench.v4(records(&["192.0.2.1"], 5));
    let good = bench.now;
    let dropped = loop {
        let (_, update) = bench.v4(failed());
        if let Some(update) = update {
            break update;
        }
        assert!(bench.now < good + 21 * SECOND, "the addresses stay");
    };
    assert!(dropped.addresses.is_empty());
    assert_eq!(bench.now, good + 20 * SECOND);
    assert!(!bench.status().stale, "nothing is left to be stale");
}

#[test]
fn drops_a_family_at_the_second_answer_without_it() {
    let mut bench = Bench::new();
    bench.v4(records(&["192.0.2.1"], 60));
    bench.v6(records(&["2001:db8::1"], 60));
    assert_eq!(bench.v4(nothing()).1, None);
    assert!(bench.status().stale);
    let (waited, said) = bench.v4(nothing());
    assert_eq!(waited, SECOND, "asked again soon");
    assert_eq!(said, update(&["2001:db8::1"]), "the other family stays");
    assert_eq!(bench.v4(nothing()).0, 30 * SECOND, "and then seldom");
    assert_eq!(bench.v4(records(&["192.0.2.9"], 60)).1, update(&["192.0.2.9", "2001:db8::1"]));
}

#[test]
fn forgets_a_first_nothing_when_addresses_come_back() {
    let mut bench = Bench::new();
    bench.v4(records(&["192.0.2.1"], 5));
    for _ in 0..3 {
        assert_eq!(bench.v4(nothing()).1, None);
        assert_eq!(bench.v4(records(&["192.0.2.1"], 5)).1, None);
    }
}

#[test]
fn a_failure_neither_counts_as_nothing_nor_takes_it_back() {
    let mut bench = Bench::new();
    bench.v6(nothing());
    bench.v4(records(&["192.0.2.1"], 5));
    assert_eq!(bench.v4(nothing()).1, None);
    assert_eq!(bench.v4(failed()).1, None);
    assert_eq!(bench.v4(failed()).1, None);
    assert_eq!(bench.v4(nothing()).1, update(&[]));
}

#[test]
fn a_missing_family_looks_again_by_the_zones_own_time() {
    for (ttl, expected) in [(None, 30), (Some(5), 5), (Some(0), 1), (Some(3600), 30)] {
        let mut bench = Bench::new();
        bench.v4(records(&["192.0.2.1"], 5));
        let outcome = || Outcome::Nothing { exists: true, ttl: ttl.map(Duration::from_secs) };
        bench.v6(outcome());
        assert_eq!(bench.v6(outcome()).0, Duration::from_secs(expected), "{ttl:?}");
        assert_eq!(bench.status().last_error, None, "a name without IPv6 is well");
    }
}

#[test]
fn takes_no_answer_to_an_earlier_wanting() {
    let mut bench = Bench::new();
    let old = bench.schedule.start_due(bench.now, 1).remove(0);
    bench.schedule.unwant(&name());
    assert_eq!(bench.schedule.next_due(), None, "nothing is left behind");
    assert_eq!(bench.schedule.finish(bench.now, &old, records(&["192.0.2.1"], 5), 0.0), None);
    bench.schedule.want(bench.now, name(), None);
    assert_eq!(bench.schedule.finish(bench.now, &old, records(&["192.0.2.1"], 5), 0.0), None);
    assert_eq!(bench.schedule.queue.len(), 2);
}

proptest! {
    #[test]
    fn a_refresh_is_never_early_and_never_late_by_much(ttl_secs in 0_u64..100_000, jitter in -1.0..2.0_f64) {
        let config = ResolveConfig::new(Vec::new());
        let now = Instant::now();
        let mut family = FamilyState::new(now);
        let wait = family.apply(&config, now, records(&["192.0.2.1"], ttl_secs), jitter);
        let ttl = Duration::from_secs(ttl_secs.clamp(1, 300));
        prop_assert!(wait >= ttl && wait <= ttl + (ttl / 10).min(JITTER_MAX), "{wait:?} for {ttl:?}");
    }

    #[test]
    fn a_retry_waits_between_half_and_all_of_its_backoff(failures in 1_u32..u32::MAX, jitter in 0.0..1.0_f64) {
        let config = ResolveConfig::new(Vec::new());
        let wait = backoff(&config, failures, jitter);
        prop_assert!(wait >= config.backoff_min / 2 && wait <= config.backoff_max, "{wait:?}");
    }
}

#[test]
fn says_once_that_both_families_are_known() {
    let mut schedule = Schedule::new(ResolveConfig::new(Vec::new()));
    let now = Instant::now();
    schedule.want(now, name(), None);
    let asks = schedule.start_due(now, usize::MAX);
    let mut finish = |family, outcome| {
        let ask = asks.iter().find(|ask| ask.family == family).expect("it was asked for");
        schedule.finish(now, ask, outcome, 0.0).map(|update| (update.addresses.v4.len(), update.is_complete))
    };
    assert_eq!(finish(Family::V4, records(&["192.0.2.1"], 5)), Some((1, false)));
    assert_eq!(finish(Family::V4, records(&["192.0.2.1"], 5)), None);
    assert_eq!(finish(Family::V6, failed()), Some((1, true)), "a failure is all that is known of it");
    assert_eq!(finish(Family::V6, nothing()), None);
}

#[test]
fn a_name_that_rests_keeps_its_addresses_and_is_hardly_ever_asked_for() {
    let mut bench = Bench::new();
    let rest = bench.schedule.config.rest();
    assert!(rest >= Duration::from_secs(600), "{rest:?}");
    bench.v4(records(&["192.0.2.1"], 30));
    bench.v6(nothing());
    bench.schedule.rest(bench.now, &name(), 0.0);
    assert_eq!(bench.schedule.next_due(), Some(bench.now + rest));
    // Names that begin to rest at one time are not asked for at one time.
    bench.schedule.rest(bench.now, &name(), 1.0);
    assert_eq!(bench.schedule.next_due(), Some(bench.now + rest * 3 / 4));
    bench.schedule.rest(bench.now, &name(), 0.0);
    assert!(bench.status().rests && bench.status().addresses.v4.len() == 1);
    // Asked for once in a long while, and a failure is told of as ever.
    assert_eq!(bench.v4(records(&["192.0.2.2"], 30)), (rest, update(&["192.0.2.2"])));
    bench.v6(failed());
    assert_eq!(bench.v6(nothing()).0, rest, "there is nothing to keep");
    bench.v4(failed());
    assert!(
        bench.v4(records(&["192.0.2.2"], 30)).0 <= Duration::from_secs(30),
        "the address must not get too old"
    );
    assert_eq!(bench.v4(records(&["192.0.2.2"], 30)).0, rest);

    // Wanted again it is asked for at once, and said to be known when both families are.
    assert!(bench.schedule.want(bench.now, name(), None));
    assert!(!bench.schedule.want(bench.now, name(), None), "wanted twice");
    assert_eq!(bench.schedule.next_due(), Some(bench.now));
    let asks = bench.schedule.start_due(bench.now, 2);
    let first = bench.schedule.finish(bench.now, &asks[0], records(&["192.0.2.2"], 30), 0.0);
    assert_eq!(first, None, "nothing is new but one family");
    let second = bench.schedule.finish(bench.now, &asks[1], nothing(), 0.0);
    assert_eq!(second, update(&["192.0.2.2"]));
    assert!(!bench.status().rests);
}

#[test]
fn a_name_that_is_let_rest_while_it_is_asked_for_rests_then() {
    // Whether or not it is answered: there is nothing to keep.
    for outcome in [records(&["192.0.2.1"], 30), failed()] {
        let mut bench = Bench::new();
        let rest = bench.schedule.config.rest();
        let asks = bench.schedule.start_due(bench.now, 2);
        bench.schedule.rest(bench.now, &name(), 0.0);
        assert_eq!(bench.schedule.next_due(), None);
        for ask in &asks {
            bench.schedule.finish(bench.now, ask, clone(&outcome), 0.0);
        }
        assert_eq!(bench.schedule.next_due(), Some(bench.now + rest));
        bench.schedule.unwant(&name());
        assert_eq!(bench.schedule.next_due(), None);
    }
}

#[test]
fn an_update_says_whether_there_is_no_address_because_of_a_failure() {
    let mut bench = Bench::new();
    let mut said = Vec::new();
    for outcome in [failed(), failed(), nothing(), records(&["192.0.2.1"], 1), failed()] {
        bench.now = bench.schedule.next_due().expect("something is due");
        for ask in bench.schedule.start_due(bench.now, 2) {
            let update = bench.schedule.finish(bench.now, &ask, clone(&outcome), 0.0);
            said.extend(update.map(|update| (update.addresses.is_empty(), update.has_failed)));
        }
    }
    // The same again is not told, and what is known stays.
    assert_eq!(said[..2], [(true, true), (true, false)], "{said:?}");
    assert!(said.len() > 2 && said[2..].iter().all(|said| *said == (false, false)), "{said:?}");
}
