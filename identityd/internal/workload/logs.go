package workload

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

const maxTail = 1 << 20

// Logs returns at most the last so many lines of the workload's output, stdout
// and stderr as they came, and at most 1 MiB.
func (m *Manager) Logs(ctx context.Context, lines int) ([]byte, error) {
	if lines < 1 || lines > 10000 {
		return nil, refuse(SpecInvalid, "%d lines of output: want 1 to 10000", lines)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	query := url.Values{"stdout": {"true"}, "stderr": {"true"}, "tail": {strconv.Itoa(lines)}}
	resp, err := m.api.do(ctx, http.MethodGet, "/containers/"+Name+"/logs", query, nil, nil)
	if notFound(err) {
		return nil, refuse(NotRunning, "there is no workload")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	last := &tail{max: maxTail}
	if err := demux(last, last, resp.Body); err != nil {
		return nil, &Error{PodmanFailed, "read the workload's output", err}
	}
	return last.buf.Bytes(), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	buf bytes.Buffer
	max int
}

func (t *tail) Write(b []byte) (int, error) {
	n := len(b)
	if n > t.max {
		b = b[n-t.max:]
	}
	if over := t.buf.Len() + len(b) - t.max; over > 0 {
		t.buf.Next(over)
	}
	t.buf.Write(b)
	return n, nil
}

var _ io.Writer = (*tail)(nil)
