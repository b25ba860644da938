package main

import (
	"context"

	"github.com/telemark-otel/telemark/internal/digest"
)

// size is what receipts add to a block of 100 items, by the number of blocks
// that one signature covers.
type size struct {
	Group   int     `json:"blocks_per_signature"`
	Signal  string  `json:"signal"`
	Receipt float64 `json:"receipt_bytes"` // mean
	Added   float64 `json:"added_bytes"`   // to a block as protobuf
	Block   float64 `json:"block_bytes"`   // without
	Zipped  float64 `json:"added_gzip_bytes"`
	ZBlock  float64 `json:"block_gzip_bytes"`
}

var groupSizes = []int{1, 8, 64, 512}

const sizedItems = 100

func runSizes(ctx context.Context, _ *options, res *result) error {
	key, err := newSoftwareKey()
	if err != nil {
		return err
	}
	for _, n := range groupSizes {
		p, err := newPresigner(key, "", n)
		if err != nil {
			return err
		}
		// As long as a nonce of the shipped length, which no server has to make.
		p.nonce = make([]byte, 32)
		for _, s := range signals {
			w := newWorkload(7)
			t, err := newTemplate(w.batch(s, 1, sizedItems))
			if err != nil {
				return err
			}
			got, err := sizesOf(p, t, n)
			if err != nil {
				return err
			}
			res.Sizes = append(res.Sizes, got)
		}
		p.close(ctx)
	}
	return nil
}

func sizesOf(p *presigner, t *template, n int) (*size, error) {
	got := &size{Group: n, Signal: t.batch.Signal().String()}
	plain, zipped, err := t.sizes()
	if err != nil {
		return nil, err
	}
	// Block numbers grow with time and take bytes; so let there be some behind.
	leaf := t.leaves(streamOf(t.batch.Signal()))[0]
	var receipts [][]byte
	for range 1 + 1024/n {
		leaves := t.leaves(leaf.Stream)
		for len(leaves) < n {
			leaves = append(leaves, leaf)
		}
		signed, err := p.sign(leaves)
		if err != nil {
			return nil, err
		}
		receipts = receipts[:0]
		for _, s := range signed {
			receipts = append(receipts, s.Receipt)
		}
	}
	for _, r := range receipts {
		t.batch.At(0).Attach(digest.Proof{Receipt: r})
		with, withZipped, err := t.sizes()
		if err != nil {
			return nil, err
		}
		got.Receipt += float64(len(r)) / float64(n)
		got.Added += float64(with-plain) / float64(n)
		got.Zipped += float64(withZipped-zipped) / float64(n)
		t.batch.At(0).StripProof()
	}
	got.Block, got.ZBlock = float64(plain), float64(zipped)
	return got, nil
}

// sizes returns the bytes of the request as protobuf and compressed.
func (t *template) sizes() (plain, zipped int, err error) {
	message, err := t.batch.Marshal()
	if err != nil {
		return 0, 0, err
	}
	f, err := frame(message, true)
	return len(message), len(f) - frameHeader, err
}
