package authstoretest

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

// StoreIsComplete fails t if s lacks a method of authstore.MessageBook,
// EventLeftovers, Maintainer, Retainer or OutgoingCounter, and names each. The
// Manager works without them, but loses what they are for: see authstore.Store. It
// is for an authstore.Store of your own, and for wrappers: one that embeds the
// interface hides what the store behind it can do. It makes no call of s. (It does
// not look at the Device, which should have an authstore.SentKeeper.)
func StoreIsComplete(t testing.TB, s authstore.Store) {
	t.Helper()
	require.Empty(t, lacking(s), "methods of optional interfaces of package authstore that %T does not have", s)
}

// optional are the interfaces that the Manager looks for in a Store.
var optional = []reflect.Type{
	reflect.TypeFor[authstore.MessageBook](),
	reflect.TypeFor[authstore.EventLeftovers](),
	reflect.TypeFor[authstore.Maintainer](),
	reflect.TypeFor[authstore.Retainer](),
	reflect.TypeFor[authstore.OutgoingCounter](),
}

func lacking(s authstore.Store) (names []string) {
	for _, want := range optional {
		for m := range want.Methods() {
			got, ok := reflect.TypeOf(s).MethodByName(m.Name)
			if !ok || !sameSignature(m.Type, got.Type) {
				names = append(names, want.Name()+"."+m.Name)
			}
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
