package authstoretest

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

// StoreIsComplete fails t if s lacks a method of authstore.Maintainer, without
// which the Manager works and cannot look after what s holds, and names each.
// It is for an authstore.Store of your own, and for wrappers: one that embeds
// the interface hides what the store behind it can do.
func StoreIsComplete(t testing.TB, s authstore.Store) {
	t.Helper()
	require.Empty(t, lacking(s), "methods of authstore.Maintainer that %T does not have", s)
}

func lacking(s authstore.Store) (names []string) {
	want := reflect.TypeFor[authstore.Maintainer]()
	for m := range want.Methods() {
		got, ok := reflect.TypeOf(s).MethodByName(m.Name)
		if !ok || !sameSignature(m.Type, got.Type) {
			names = append(names, m.Name)
		}
	}
	return names
}

// sameSignature compares a method of an interface with one of a type, whose
// first parameter is its receiver.
func sameSignature(want, got reflect.Type) bool {
	if got.NumIn() != want.NumIn()+1 || got.NumOut() != want.NumOut() {
		return false
	}
	for i := range want.NumIn() {
		if got.In(i+1) != want.In(i) {
			return false
		}
	}
	for i := range want.NumOut() {
		if got.Out(i) != want.Out(i) {
			return false
		}
	}
	return true
}
