package stability

import (
	"reflect"
	"slices"

	"go.mau.fi/whatsmeow/types/events"
)

// onAppState notes which collections of the app state (contacts, archived and
// muted chats, settings) could not be synced. It says nothing about messages,
// and whatsmeow asks the phone to mend it, so it is shown and not acted upon.
// The event is known by its name, since older versions of whatsmeow lack it;
// false means that the event is about something else.
func (sl *slot) onAppState(evt any) bool {
	if e, ok := evt.(*events.AppStateSyncComplete); ok {
		sl.m.mu.Lock()
		defer sl.m.mu.Unlock()
		delete(sl.appState, string(e.Name))
		return true
	}
	v := reflect.ValueOf(evt)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct || v.Elem().Type().Name() != "AppStateSyncError" {
		return false
	}
	name := "unknown"
	if f := v.Elem().FieldByName("Name"); f.IsValid() && f.Kind() == reflect.String {
		name = f.String()
	}
	sl.m.mu.Lock()
	defer sl.m.mu.Unlock()
	if _, known := sl.appState[name]; known {
		return true
	}
	if sl.appState == nil {
		sl.appState = map[string]struct{}{}
	}
	sl.appState[name] = struct{}{}
	sl.m.cfg.logger.Warn("a part of the app state could not be read: contacts, archived or muted chats may be out of date; messages are not affected", "part", name)
	return true
}

// appStateLocked lists the collections that could not be synced.
func (sl *slot) appStateLocked() []string {
	var names []string
	for name := range sl.appState {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
