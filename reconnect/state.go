package reconnect

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// EncodeState writes a state as JSON, in the newest format.
func EncodeState(s State) ([]byte, error) {
	if s.Version > StateVersion {
		return nil, fmt.Errorf("encode state of format %d: %w", s.Version, ErrNewerFormat)
	}
	s.Version = StateVersion
	known, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("reconnect: encode state: %w", err)
	}
	if len(s.Unknown) == 0 {
		return known, nil
	}
	all := maps.Clone(s.Unknown)
	for name := range all {
		if knownField(name) {
			delete(all, name)
		}
	}
	own := map[string]json.RawMessage{}
	if err := json.Unmarshal(known, &own); err != nil {
		return nil, fmt.Errorf("reconnect: encode state: %w", err)
	}
	maps.Copy(all, own)
	data, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("reconnect: encode state: %w", err)
	}
	return data, nil
}

// DecodeState reads what EncodeState wrote. No bytes are the zero State. A
// format newer than StateVersion is an error that matches ErrNewerFormat.
// Fields that this library does not know are kept in State.Unknown. Bytes that
// are no state at all are an error, never a fresh state.
func DecodeState(data []byte) (State, error) {
	if len(data) == 0 {
		return State{}, nil
	}
	// The version first: in a newer format the other fields may have other
	// types.
	var head struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return State{}, fmt.Errorf("reconnect: decode state: %w", err)
	}
	switch {
	case head.Version == nil || *head.Version < 0:
		return State{}, fmt.Errorf("reconnect: decode state: there is no format version in it: it was not written by this library")
	case *head.Version > StateVersion:
		return State{}, fmt.Errorf("decode state of format %d: %w", *head.Version, ErrNewerFormat)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("reconnect: decode state: %w", err)
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &all); err != nil {
		return State{}, fmt.Errorf("reconnect: decode state: %w", err)
	}
	maps.DeleteFunc(all, func(name string, _ json.RawMessage) bool { return knownField(name) })
	if len(all) > 0 {
		s.Unknown = all
	}
	return s, nil
}

// knownFields are the names under which encoding/json writes a State.
var knownFields = func() (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[State]()) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}()

// knownField reports whether encoding/json would put name into a field of
// State: it ignores case.
func knownField(name string) bool {
	return slices.ContainsFunc(knownFields, func(known string) bool { return strings.EqualFold(known, name) })
}
