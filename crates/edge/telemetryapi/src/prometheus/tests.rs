use super::*;
use std::pin::Pin;
use wharf_telemetry::metrics::Options;

struct Front {
    _dir: tempfile::TempDir,
    api: Arc<Prometheus>,
}

fn front() -> Front {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::open(dir.path(), Options { background: false, ..Options::default() }).unwrap();
    Front { _dir: dir, api: Prometheus::new(metrics, Limits::default(), None) }
}

impl Front {
    async fn send(&self, request: Request<Body>) -> (u16, String) {
        let path = request.uri().path().to_string();
        // Listeners need a future that may move between threads.
        let answer: Pin<Box<dyn Future<Output = Response<Body>> + Send + '_>> =
            Box::pin(self.api.handle(&path, request));
        let response = answer.await;
        let status = response.status().as_u16();
        let body = collect(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, uri: &str) -> (u16, String) {
        self.send(Request::get(uri).body(wharf_http::empty()).unwrap()).await
    }

    #[allow(clippy::type_complexity, reason = "labels and samples as the tests write them")]
    async fn write(&self, series: &[(&[(&str, &str)], &[(i64, f64)])]) -> (u16, String) {
        let body = write::encode(series);
        let request = Request::post("/api/v1/write")
            .header("content-encoding", "snappy")
            .header("content-type", "application/x-protobuf");
        self.send(request.body(full(body)).unwrap()).await
    }
}

#[tokio::test]
async fn written_samples_are_queried_in_prometheus_words() {
    let front = front();
    let up: &[(&str, &str)] = &[("__name__", "up"), ("job", "a\"b")];
    assert_eq!(front.write(&[(up, &[(1000, 1.0), (2500, 0.1)])]).await, (204, String::new()));
    assert_eq!(front.write(&[(up, &[(2500, 0.1)])]).await.0, 204, "sent again");
    let (status, text) = front.write(&[(up, &[(500, 1.0), (3000, 1e-7)])]).await;
    assert!(status == 400 && text.contains("out of order 1"), "{text}");
    let check = |got: (u16, String), want: &str| assert_eq!(got, (200, want.to_string()));
    check(
        front.get("/api/v1/query?query=up&time=2.6").await,
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a\"b"},"value":[2.600,"0.1"]}]}}"#,
    );
    check(
        front.get("/api/v1/query_range?query=up&start=1&end=1970-01-01T00:00:03Z&step=1s").await,
        r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up","job":"a\"b"},"values":[[1,"1"],[2,"1"],[3,"1e-7"]]}]}}"#,
    );
    check(
        front.get("/api/v1/query?query=1%2F0&time=1").await,
        r#"{"status":"success","data":{"resultType":"scalar","result":[1,"+Inf"]}}"#,
    );
    check(front.get("/api/v1/labels").await, r#"{"status":"success","data":["__name__","job"]}"#);
    check(front.get("/api/v1/label/job/values").await, r#"{"status":"success","data":["a\"b"]}"#);
    check(
        front.get("/api/v1/series?match[]=up").await,
        r#"{"status":"success","data":[{"__name__":"up","job":"a\"b"}]}"#,
    );
    check(
        front.get("/api/v1/format_query?query=sum(up)by(job)").await,
        r#"{"status":"success","data":"sum by (job) (up)"}"#,
    );
    check(front.get("/api/v1/rules").await, r#"{"status":"success","data":{"groups":[]}}"#);
    let post = Request::post("/api/v1/query").body(full("query=up%7B%7D&time=3")).unwrap();
    assert!(front.send(post).await.1.contains("1e-7"));
}

#[tokio::test]
async fn errors_are_prometheus_own() {
    let front = front();
    let check = |got: (u16, String), status: u16, kind: &str, want: &str| {
        let body: Value = serde_json::from_str(&got.1).unwrap();
        assert_eq!(
            (got.0, body["errorType"].as_str(), body["error"].as_str()),
            (status, Some(kind), Some(want))
        );
    };
    check(
        front.get("/api/v1/query?query=sum(").await,
        400,
        "bad_data",
        "invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis",
    );
    check(
        front.get("/api/v1/query?query=foo+bar").await,
        400,
        "bad_data",
        "invalid parameter \"query\": 1:5: parse error: unexpected identifier \"bar\"",
    );
    check(
        front.get("/api/v1/query?query=raet(foo[1m])").await,
        400,
        "bad_data",
        "invalid parameter \"query\": 1:1: parse error: unknown function with name \"raet\": did you mean 'rate'?",
    );
    check(
        front.get("/api/v1/query_range?query=up&start=2&end=1&step=1").await,
        400,
        "bad_data",
        "invalid parameter \"end\": end timestamp must not be before start time",
    );
    check(front.get("/api/v1/series").await, 400, "bad_data", "no match[] parameter provided");
    check(
        front.get("/api/v1/query?query=up&timeout=0.000").await,
        503,
        "timeout",
        "query timed out in expression evaluation",
    );
    let (status, _) = front.get("/api/v1/nothing").await;
    assert_eq!(status, 404);
    let write = Request::post("/api/v1/write").body(full("junk")).unwrap();
    assert_eq!(front.send(write).await.0, 400);
}
