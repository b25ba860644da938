package podmantest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Registry is a small image registry on loopback, as far as pulling needs one
// (OCI distribution specification 1.1, section "Pull").
type Registry struct {
	Host     string // 127.0.0.1:PORT
	Username string // asked for when not empty
	Password string

	mu    sync.Mutex
	blobs map[string]blob   // by digest; manifests too
	tags  map[string]string // digests by NAME:TAG
}

type blob struct {
	mediaType string
	content   []byte
}

type descriptor struct {
	MediaType string            `json:"mediaType"`
	Digest    string            `json:"digest"`
	Size      int               `json:"size"`
	Platform  map[string]string `json:"platform,omitempty"`
}

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// NewRegistry starts one, which ends with the test.
func NewRegistry(tb testing.TB) *Registry {
	tb.Helper()
	r := &Registry{blobs: map[string]blob{}, tags: map[string]string{}}
	server := httptest.NewServer(r)
	tb.Cleanup(server.Close)
	r.Host = strings.TrimPrefix(server.URL, "http://")
	return r
}

// Push makes NAME:TAG an image that serves the words, and returns the digests
// of its index and of its manifest.
func (r *Registry) Push(tb testing.TB, name, tag, words string) (index, manifest string) {
	tb.Helper()
	layer := Layer(tb, "/bin/sh")
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(layer)
	must(tb, err)
	must(tb, w.Close())
	diff := sha256.Sum256(layer)
	r.mu.Lock()
	defer r.mu.Unlock()
	config := r.put(tb, typeConfig, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/program", "serve", words}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(diff[:])}},
	})
	image := r.put(tb, typeManifest, map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": config,
		"layers": []descriptor{r.store(typeLayer, packed.Bytes())},
	})
	image.Platform = map[string]string{"architecture": "amd64", "os": "linux"}
	top := r.put(tb, typeIndex, map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": []descriptor{image}})
	r.tags[name+":"+tag] = top.Digest
	return top.Digest, image.Digest
}

// Swap makes a digest answer with other contents, as a hostile registry does.
func (r *Registry) Swap(digest, with string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[digest] = r.blobs[with]
}

func (r *Registry) put(tb testing.TB, mediaType string, v any) descriptor {
	tb.Helper()
	b, err := json.Marshal(v)
	must(tb, err)
	return r.store(mediaType, b)
}

func (r *Registry) store(mediaType string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	r.blobs[digest] = blob{mediaType, content}
	return descriptor{MediaType: mediaType, Digest: digest, Size: len(content)}
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.Username != "" {
		if name, password, _ := req.BasicAuth(); name != r.Username || password != r.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
	}
	if req.URL.Path == "/v2/" {
		return
	}
	dir, last := path.Split(strings.TrimPrefix(req.URL.Path, "/v2/"))
	name, kind := path.Split(strings.TrimSuffix(dir, "/"))
	r.mu.Lock()
	defer r.mu.Unlock()
	if kind == "manifests" {
		if digest, ok := r.tags[strings.TrimSuffix(name, "/")+":"+last]; ok {
			last = digest
		}
	}
	b, ok := r.blobs[last]
	if !ok {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`))
		return
	}
	w.Header().Set("Content-Type", b.mediaType)
	w.Header().Set("Docker-Content-Digest", last)
	w.Header().Set("Content-Length", strconv.Itoa(len(b.content)))
	if req.Method != http.MethodHead {
		_, _ = w.Write(b.content)
	}
}
