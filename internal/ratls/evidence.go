package ratls

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx"
)

const (
	profile       = "https://github.com/telemark-otel/telemark/ratls-v1"
	typeQuote     = "application/vnd.telemark.tdx-quote"
	typeStatement = "application/vnd.telemark.identity-statement+json"
	evidence      = 4 // conceptual message type
)

type record struct {
	_     struct{} `cbor:",toarray"`
	Type  string
	Value []byte
	Ind   uint32
}

type collection struct {
	Quote     record `cbor:"quote"`
	Profile   string `cbor:"__cmwc_t"`
	Statement record `cbor:"statement"`
}

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   4,
		MaxArrayElements:  16,
		MaxMapPairs:       16,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // constant options
	}
	return v
}

// wrap returns the extension's value.
func wrap(quote, raw []byte) ([]byte, error) {
	if len(quote) == 0 || len(quote) > tdx.MaxQuote || len(raw) == 0 || len(raw) > statement.Max {
		return nil, errors.New("quote or statement is out of bounds")
	}
	body, err := encMode.Marshal(&collection{
		Quote: record{Type: typeQuote, Value: quote, Ind: evidence}, Profile: profile,
		Statement: record{Type: typeStatement, Value: raw, Ind: evidence},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(body)
}

// unwrap reads the value that wrap writes, and no other spelling of it.
func unwrap(value []byte) (quote, raw []byte, err error) {
	if len(value) > maxEvidence {
		return nil, nil, fmt.Errorf("it has %d bytes, and %d are allowed", len(value), maxEvidence)
	}
	var body []byte
	rest, err := asn1.Unmarshal(value, &body)
	if err != nil || len(rest) != 0 {
		return nil, nil, errors.New("it is not one octet string")
	}
	var c collection
	if err := decMode.Unmarshal(body, &c); err != nil {
		return nil, nil, fmt.Errorf("%.200q", err.Error())
	}
	switch {
	case c.Profile != profile:
		return nil, nil, fmt.Errorf("its profile %.64q is another", c.Profile)
	case c.Quote.Type != typeQuote || c.Statement.Type != typeStatement || c.Quote.Ind != evidence || c.Statement.Ind != evidence:
		return nil, nil, errors.New("its records are of other types")
	}
	again, err := wrap(c.Quote.Value, c.Statement.Value)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(again, value) {
		return nil, nil, errors.New("it is not in deterministic encoding")
	}
	return c.Quote.Value, c.Statement.Value, nil
}
