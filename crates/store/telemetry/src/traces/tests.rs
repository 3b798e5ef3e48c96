use super::*;

fn span(trace: u8, id: u8, parent: u8, service: &str, start: i64) -> Span {
    Span {
        trace_id: TraceId([trace; 16]),
        span_id: SpanId([id; 8]),
        parent: SpanId([parent; 8]),
        service: service.into(),
        name: format!("op{id}"),
        kind: Kind::Server,
        start,
        duration: u64::from(id) * 1000,
        status: if id == 3 { StatusCode::Error } else { StatusCode::Unset },
        attributes: vec![("http.route".into(), "/products".into())],
        resource: vec![("k8s.pod.name".into(), format!("pod-{service}"))],
        events: vec![Event { at: start + 1, name: "e".into(), attributes: vec![] }],
        ..Span::default()
    }
}

#[test]
fn traces_are_found_by_id_and_by_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let traces = Traces::open(dir.path(), Options::default()).unwrap();
    traces.append(vec![span(1, 1, 0, "shop", 1000), span(1, 2, 1, "pay", 1500)]).unwrap();
    traces.seal().unwrap();
    // A late span, an unrelated trace, and one sent twice.
    traces
        .append(vec![span(1, 3, 1, "stock", 1200), span(2, 4, 0, "shop", 9000), span(1, 1, 0, "shop", 1000)])
        .unwrap();
    let check = |traces: &Traces| {
        let found = traces.trace(TraceId([1; 16])).unwrap();
        let names: Vec<&str> = found.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["op1", "op3", "op2"]);
        assert_eq!(*found[0], span(1, 1, 0, "shop", 1000));
        assert!(traces.trace(TraceId([9; 16])).unwrap().is_empty());
        let search = |change: fn(&mut Search)| {
            let mut search = Search { to: i64::MAX, limit: 10, ..Search::default() };
            change(&mut search);
            let ids: Vec<u8> = traces.search(&search).unwrap().iter().map(|s| s.trace_id.0[0]).collect();
            ids
        };
        assert_eq!(search(|_| {}), [2, 1]);
        assert_eq!(search(|s| s.limit = 1), [2]);
        assert_eq!(search(|s| s.service = "pay".into()), [1]);
        assert_eq!(search(|s| s.failed = true), [1]);
        assert_eq!(search(|s| s.min_duration = Some(4000)), [2]);
        assert_eq!(search(|s| s.to = 5000), [1]);
        assert_eq!(search(|s| s.attributes = vec![("k8s.pod.name".into(), "pod-stock".into())]), [1]);
        let all = traces.search(&Search { to: i64::MAX, limit: 10, ..Search::default() }).unwrap();
        assert_eq!(
            (all[1].root_name.as_str(), all[1].spans, all[1].failed, all[1].duration),
            ("op1", 3, 1, 3200)
        );
        assert_eq!(traces.services().into_iter().collect::<Vec<_>>(), ["pay", "shop", "stock"]);
    };
    check(&traces);
    drop(traces);
    let traces = Traces::open(dir.path(), Options::default()).unwrap();
    check(&traces);
    traces.seal().unwrap();
    check(&traces);
    drop(traces);
    check(&Traces::open(dir.path(), Options::default()).unwrap());
}

#[test]
fn ids_are_hexadecimal() {
    assert_eq!(
        "0af7651916cd43dd8448eb211c80319c".parse::<TraceId>().unwrap().to_string(),
        "0af7651916cd43dd8448eb211c80319c"
    );
    assert_eq!("1".parse::<TraceId>().unwrap().0[15], 1);
    assert!(
        "xyz".parse::<TraceId>().is_err()
            && "".parse::<TraceId>().is_err()
            && "+1".parse::<TraceId>().is_err()
    );
}
