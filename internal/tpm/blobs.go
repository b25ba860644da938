package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

// Blobs are a key as tpm2-tools keep it (tpm2_create -u PUBLIC -r PRIVATE), in
// two files without anything around them (part 2, sections 12.2.5 and 12.3.7):
//
//	TPM2B_PUBLIC   u16 size | TPMT_PUBLIC
//	TPM2B_PRIVATE  u16 size | the sensitive area, wrapped by the key's parent
type Blobs struct {
	public  *object
	private []byte // without its size
	alg     Algorithm
}

// Algorithm is what the key signs with.
func (b *Blobs) Algorithm() Algorithm { return b.alg }

// KID is the TPM Name of the key.
func (b *Blobs) KID() []byte { return b.public.name.Buffer }

// maxBlob bounds a file with a blob; that of an RSA key with 2048 bits has 300
// bytes. What a TPM takes is bounded by its commands, at most [wire.MaxSize].
const maxBlob = 2 << 10

// The errors of blobs.
var (
	// ErrBlobs: the files are no blobs of a key.
	ErrBlobs = errors.New("these are no key blobs as tpm2_create writes them with -u and -r")
	// ErrContext: the file is a saved context, which ends with the TPM's next reset.
	ErrContext = errors.New("this is a saved context, which is of no use after the TPM's next reset; " +
		"give the blobs that the key was loaded from (tpm2_create -u and -r), or, while the context can still be loaded, " +
		"keep the key in the TPM (tpm2_evictcontrol -C o -c CONTEXT 0x81010042) and adopt it at that handle")
	// ErrReference: the file names a persistent handle.
	ErrReference = errors.New("this only names a persistent handle; adopt the key at that handle, or give the blobs of the key")
)

// ReadBlobs reads the two files of a key, and refuses a key that cannot sign
// telemetry ([ErrUnfit]) before any TPM is asked.
func ReadBlobs(public, private string) (*Blobs, error) {
	pub, err := readBlob(public)
	if err != nil {
		return nil, err
	}
	priv, err := readBlob(private)
	if err != nil {
		return nil, err
	}
	b, err := parseBlobs(pub, priv)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", public, private, err)
	}
	return b, nil
}

func readBlob(path string) ([]byte, error) {
	b, err := private.ReadFile(path, maxBlob+sizeOfSize)
	if err != nil {
		// A context is larger than a blob, and its name says too little.
		if head := headOf(path); recognise(head) != nil {
			err = recognise(head)
		}
		return nil, fmt.Errorf("reading a key blob: %w", naming(path, err))
	}
	if err := recognise(b); err != nil {
		return nil, naming(path, err)
	}
	return b, nil
}

// naming makes sure that err names the file.
func naming(path string, err error) error {
	if strings.Contains(err.Error(), path) {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// FindBlobs returns the files with the blobs of a key that is known by a saved
// context, as deployments with tpm2-tools name it: of app.ctx, or of the stem app,
// app.pub and app.priv (or app.prv) beside it. Without them the error says
// what the named file is instead.
func FindBlobs(path string) (public, private string, err error) {
	if strings.HasPrefix(strings.ToLower(path), "0x8") {
		return "", "", fmt.Errorf("%.64q: %w", path, ErrReference)
	}
	stems := []string{path}
	switch ext := filepath.Ext(path); ext {
	case ".ctx", ".pub", ".priv", ".prv":
		stems = append(stems, strings.TrimSuffix(path, ext))
	}
	for _, stem := range stems {
		for _, ext := range []string{".priv", ".prv"} {
			if exists(stem+".pub") && exists(stem+ext) {
				return stem + ".pub", stem + ext, nil
			}
		}
	}
	if known := recognise(headOf(path)); known != nil {
		return "", "", fmt.Errorf("%s, and no blobs (.pub and .priv) lie beside it: %w", path, known)
	}
	return "", "", fmt.Errorf("%s: no blobs (.pub and .priv) of that name: %w", path, os.ErrNotExist)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// headOf returns the beginning of a file, nothing when it cannot be read.
func headOf(path string) []byte {
	b, _ := private.ReadFile(path, maxFileSize)
	return b[:min(len(b), 64)]
}

// contextMagic begins the files that tpm2-tools save contexts in.
const contextMagic = 0xBADCC0DE

// recognise says what a file is that is given in place of a blob, nil for what may
// be one.
func recognise(b []byte) error {
	switch {
	case len(b) >= 4 && binary.BigEndian.Uint32(b) == contextMagic:
		return ErrContext
	case len(b) >= 4 && b[0] == 0x81: // ESYS_TR: u32 handle | 2B Name | …
		return fmt.Errorf("handle %#08x: %w", binary.BigEndian.Uint32(b), ErrReference)
	case bytes.HasPrefix(b, []byte("-----BEGIN ")):
		return fmt.Errorf("this is PEM: %w", ErrBlobs)
	default:
		return nil
	}
}

const sizeOfSize = 2

// unsized takes the size from in front of a blob.
func unsized(what string, b []byte) ([]byte, error) {
	if len(b) <= sizeOfSize || len(b) > maxBlob+sizeOfSize {
		return nil, fmt.Errorf("%s area in %d bytes: %w", what, len(b), ErrBlobs)
	}
	if size := int(binary.BigEndian.Uint16(b)); size != len(b)-sizeOfSize {
		return nil, fmt.Errorf("%s area says that it has %d bytes and has %d: %w", what, size, len(b)-sizeOfSize, ErrBlobs)
	}
	return b[sizeOfSize:], nil
}

func parseBlobs(public, private []byte) (*Blobs, error) {
	raw, err := unsized("public", public)
	if err != nil {
		return nil, err
	}
	o, err := parseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBlobs, err)
	}
	sensitive, err := unsized("private", private)
	if err != nil {
		return nil, err
	}
	alg, err := o.signsWith()
	if err != nil {
		return nil, err
	}
	if _, err := publicKey(&o.public); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBlobs, err)
	}
	return &Blobs{public: o, private: sensitive, alg: alg}, nil
}
