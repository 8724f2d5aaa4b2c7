() => {
  const words = WORDS;
  // Gradio takes pictures by its input for files only; what is pasted is put there.
  const take = (files) => {
    const input = document.querySelector("#pictures input[type=file]");
    if (!input || !files.length) return false;
    const data = new DataTransfer();
    files.forEach((file) => data.items.add(file));
    input.files = data.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  };
  const isPicture = (file) => file.type.startsWith("image/");
  document.addEventListener("paste", (event) => {
    if (take([...(event.clipboardData?.files ?? [])].filter(isPicture))) event.preventDefault();
  });
  window.pellucidPaste = async () => {
    const files = [];
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((name) => name.startsWith("image/"));
        if (type) files.push(new File([await item.getType(type)], `pasted.${type.slice(6).replace("jpeg", "jpg")}`, { type }));
      }
    } catch (error) { console.info(error); }
    if (!take(files)) window.alert(words.paste_none);
  };
}
