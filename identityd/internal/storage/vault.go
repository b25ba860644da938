package storage

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"

	bao "github.com/openbao/openbao/api/v2"
)

const (
	vaultTimeout  = 10 * time.Second
	vaultAnswer   = 64 << 10
	maxSealed     = 4096
	vaultAttempts = 3
)

// VaultOptions say where a transit engine of OpenBao or Vault is.
type VaultOptions struct {
	Address string // https://…; http only with Insecure
	Mount   string // of the transit engine; "transit" when empty
	Key     string // name of the key in it
	// Token returns this instance's token. It is asked for before each call,
	// since tokens are renewed.
	Token     func(context.Context) (string, error)
	Transport http.RoundTripper // http.DefaultTransport when nil
	Insecure  bool
}

type vault struct{ VaultOptions }

var vaultName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_./-]{0,127}$`)

// Vault is the source of keys that a transit engine seals: the key is made here
// and encrypted by the engine when the volume is made, and decrypted by it each
// time. The engine binds it to the volume's ID (associated data), and decides by
// the token's policy who gets it back.
func Vault(o VaultOptions) (Source, error) {
	if o.Mount == "" {
		o.Mount = "transit"
	}
	if !vaultName.MatchString(o.Mount) || !vaultName.MatchString(o.Key) || strings.Contains(o.Mount+"/"+o.Key, "..") {
		return nil, refuse(SourceFailed, "mount %.64q or key %.64q of the transit engine", o.Mount, o.Key)
	}
	if !strings.HasPrefix(o.Address, "https://") && (!o.Insecure || !strings.HasPrefix(o.Address, "http://")) {
		return nil, refuse(SourceFailed, "address %.64q: https:// is needed, the key comes back in clear", o.Address)
	}
	if o.Token == nil {
		return nil, refuse(SourceFailed, "no token for the transit engine")
	}
	v := &vault{o}
	if _, err := v.client(""); err != nil {
		return nil, err
	}
	return v, nil
}

// client makes one for a call. Not bao.Client.Clone: the copy reads the
// environment, and follows redirects.
func (v *vault) client(token string) (*bao.Client, error) {
	transport := v.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	config := bao.NewConfig()
	// The environment of the process could send the token elsewhere.
	config.DisableEnvironment, config.DisableRedirects = true, true
	config.Address = v.Address
	config.HttpClient = &http.Client{Transport: bounded{transport}, Timeout: vaultTimeout}
	config.MaxRetries = vaultAttempts - 1
	config.MinRetryWait, config.MaxRetryWait = 100*time.Millisecond, 500*time.Millisecond
	config.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		if errors.Is(err, errRedirect) {
			return false, err
		}
		return bao.DefaultRetryPolicy(ctx, resp, err)
	}
	client, err := bao.NewClient(config)
	if err != nil {
		return nil, because(SourceFailed, err, "client of the transit engine")
	}
	client.SetToken(token)
	return client, nil
}

func (*vault) Kind() Kind      { return VaultKey }
func (*vault) Warning() string { return "" }

func (v *vault) call(ctx context.Context, what string, id ID, member, value, want string) (string, error) {
	token, err := v.Token(ctx)
	if err != nil {
		return "", because(SourceFailed, err, "token for the transit engine")
	}
	client, err := v.client(token)
	if err != nil {
		return "", err
	}
	secret, err := client.Logical().WriteWithContext(ctx, path.Join(v.Mount, what, v.Key), map[string]any{
		member: value, "associated_data": base64.StdEncoding.EncodeToString(id[:]),
	})
	if err != nil {
		return "", refuse(SourceFailed, "transit %s: %.300q", what, err.Error())
	}
	if secret == nil {
		return "", refuse(SourceFailed, "transit %s: an empty answer", what)
	}
	answer, ok := secret.Data[want].(string)
	if !ok || answer == "" {
		return "", refuse(SourceFailed, "transit %s: an answer without %s", what, want)
	}
	return answer, nil
}

func (v *vault) Create(ctx context.Context, id ID) (*Key, []byte, error) {
	key := randomKey()
	sealed, err := v.call(ctx, "encrypt", id, "plaintext", base64.StdEncoding.EncodeToString(key.b[:]), "ciphertext")
	if err == nil && len(sealed) > maxSealed {
		err = refuse(SourceFailed, "transit encrypt: a ciphertext of %d bytes", len(sealed))
	}
	if err != nil {
		key.Wipe()
		return nil, nil, err
	}
	return key, []byte(sealed), nil
}

func (v *vault) Release(ctx context.Context, id ID, sealed []byte) (*Key, error) {
	if len(sealed) == 0 {
		return nil, refuse(SourceFailed, "the volume's header holds no sealed key")
	}
	plain, err := v.call(ctx, "decrypt", id, "ciphertext", string(sealed), "plaintext")
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(plain)
	if err != nil {
		return nil, refuse(SourceFailed, "transit decrypt: the answer is not base64")
	}
	return NewKey(b)
}

// bounded bounds answers, which the client reads whole, and takes none for a
// redirect: net/http would send the token and the key along.
type bounded struct{ next http.RoundTripper }

var errRedirect = errors.New("a redirect, which is not followed: the token is for this address")

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return nil, errors.Join(errRedirect, resp.Body.Close())
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, vaultAnswer), resp.Body}
	return resp, nil
}
