//! The table of cases is whole.

use gpu_events_conformance::{Group, cases};
use std::collections::HashSet;

#[test]
fn ids_and_names_are_unique() {
    let (mut ids, mut names) = (HashSet::new(), HashSet::new());
    for case in cases() {
        assert!(ids.insert(case.id), "two cases have the number {}", case.id);
        assert!(names.insert(case.name), "two cases are called {}", case.name);
    }
}

#[test]
fn every_case_of_the_list_is_there_and_no_number_is_left_out() {
    let ids: HashSet<u16> = cases().map(|case| case.id).collect();
    let last = ids.iter().copied().max().unwrap();
    assert!(last >= 91);
    for id in 1..=last {
        assert!(ids.contains(&id), "case {id} is missing");
    }
}

#[test]
fn names_can_be_typed() {
    for case in cases() {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(case.name.bytes().all(plain), "{}", case.name);
    }
}

#[test]
fn every_rule_that_a_run_can_show_has_a_case() {
    let covered: HashSet<u8> = cases().flat_map(|case| case.rules).copied().collect();
    for rule in 1..=41 {
        // Sharing with other processes is an object of its own, made by backends that have it.
        assert_eq!(covered.contains(&rule), rule != 36, "R{rule}");
    }
    assert!(covered.iter().all(|rule| (1..=41).contains(rule)));
}

#[test]
fn groups_stand_together() {
    let mut seen: Vec<Group> = Vec::new();
    for case in cases() {
        if seen.last() != Some(&case.group) {
            assert!(!seen.contains(&case.group), "{} is in two places", case.group);
            seen.push(case.group);
        }
        assert!(!case.rules.is_empty(), "{} tests no rule", case.name);
    }
    assert_eq!(seen.len(), 8);
}
